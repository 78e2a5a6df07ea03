"""The operator tests of the package `onnx`, if it is installed."""

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx_operators


@pytest.fixture(scope="module")
def cases():
    return list(onnx_operators.cases())


@pytest.fixture
def run(cases, monkeypatch, capsys):
    """A function that runs the script, with an operator replaced: (status, table, complaints)."""
    monkeypatch.setattr(onnx_operators, "cases", lambda: cases)

    def run(**operators):
        for name, function in operators.items():
            monkeypatch.setitem(onnx_operators.OPERATORS, name, function)
        return onnx_operators.main(), *capsys.readouterr()

    return run


def test_none_is_wrong_and_all_of_images_can_be_expressed(run, cases):
    status, table, complaints = run()
    assert (status, complaints) == (0, "")
    *_, total = table.splitlines()
    name, tests, passed, wrong, not_expressed = total.split()
    assert (name, wrong) == ("all", "0")
    assert int(tests) == len(cases) == int(passed) + int(not_expressed)
    assert int(passed) > 110
    assert {case.operator for case in cases} == onnx_operators.OPERATORS.keys()


def test_a_wrong_operator_is_told(run):
    status, table, complaints = run(Relu=lambda case: [np.abs(case.inputs[0])])
    assert status == 1 and "Relu, test_relu, wrong: \nNot equal to tolerance" in complaints


def test_one_of_images_that_cannot_be_expressed_is_told(run):
    def refuse(case):
        raise onnx_operators.CannotExpress("no such layer")

    status, table, complaints = run(GlobalMaxPool=refuse, Softmax=refuse)
    assert status == 1 and "Softmax" not in complaints
    assert "GlobalMaxPool, test_globalmaxpool, not expressed: no such layer\n" in complaints
