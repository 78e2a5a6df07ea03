"""`python -m minicnn`, the same as `minicnn`."""

from minicnn.cli.commands import main

raise SystemExit(main())
