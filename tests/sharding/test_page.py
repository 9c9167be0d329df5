"""docs/sharding.md: its first program gives the collectives that it shows."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sharding.md"


def test_the_page_shows_what_its_program_prints():
    text = PAGE.read_text()
    program = re.search(r"```python\n(.*?)```", text, re.S)
    shown = re.search(r"```text\n(.*?)\n```", text, re.S)
    assert program
    assert shown
    names = {}
    exec(program[1], names)
    printed = repr(names["part"]).splitlines()[: len(shown[1].splitlines())]
    width = printed[0].index("all_to_all") + len("all_to_all")
    assert [line[:width] for line in printed] == [line[:width] for line in shown[1].splitlines()]
