"""Whose container it is: only the certainly dead lose theirs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.processes import identity
from belljar.sandbox.docker.creator import creator, is_gone

MACHINE, BOOT, NAMESPACE, US = creator().split("/")
DEAD = f"{MACHINE}/{BOOT}/{NAMESPACE}/{os.getpid()}-1"


def test_this_process_lives() -> None:
    assert identity(os.getpid()) == US
    assert not is_gone(creator())


def test_a_process_is_gone_when_it_has_ended() -> None:
    command = "from belljar.sandbox.docker.creator import creator; print(creator(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", command], stdin=-1, stdout=-1, text=True)
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert name.split("/")[:3] == [MACHINE, BOOT, NAMESPACE]
    assert not is_gone(name)
    child.communicate("\n")
    assert is_gone(name)


@pytest.mark.parametrize("name", [DEAD, f"{MACHINE}/another-boot/{NAMESPACE}/{US}"], ids=["process", "boot"])
def test_the_same_number_is_not_the_same_process(name: str) -> None:
    assert is_gone(name)


OTHERS = {
    "another machine": f"x{MACHINE}/{BOOT}/{NAMESPACE}/1-1",
    "another machine after another boot": f"x{MACHINE}/another-boot/{NAMESPACE}/1-1",
    "a copy of this machine under another name": f"{MACHINE.partition('@')[0]}@copy/another-boot/{NAMESPACE}/1-1",
    "another pid namespace": f"{MACHINE}/{BOOT}/1/1-1",
    "too little": f"{MACHINE}/{BOOT}/{NAMESPACE}",
    "too much": f"{DEAD}/",
    "nothing": "",
}


@pytest.mark.parametrize("name", OTHERS.values(), ids=OTHERS)
def test_of_others_nothing_is_known(name: str) -> None:
    assert not is_gone(name)


@given(st.text(max_size=100))
def test_no_label_is_an_error(name: str) -> None:
    assert not is_gone(name)
