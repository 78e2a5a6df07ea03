"""`python -m minicnn`, the same as `minicnn`."""

from minicnn.cli import main

raise SystemExit(main())
