"""Every command and every flag that README and the documentation show is one that there is."""

import re
from functools import cache

import pytest

from tests.docs.commands import OURS, mistakes
from tests.docs.pages import SHELL, Block, blocks_of, commands_in, inline_code, pages, taken_apart
from tests.docs.parsers import SCRIPTS, options_of, parser_of

SHOWN = [(block, command) for block in blocks_of(*SHELL) for command in commands_in(block)]
NNUNET = ("nnUNetv2_train", "nnUNetv2_plan_and_preprocess", "nnUNetv2_predict", "nnUNetv2_predict_from_modelfolder")
RUN_BY_READERS = [f"scripts/{file.name}" for file in SCRIPTS.glob("*.py") if "__main__" in file.read_text()]
FLAG = re.compile(r"--?[a-zA-Z][\w-]*")


@pytest.mark.parametrize(("block", "command"), SHOWN, ids=[f"{block} {command[:40]}" for block, command in SHOWN])
def test_a_command_of_the_documentation_is_understood(block: Block, command: str) -> None:
    assert list(mistakes(command)) == [], f"{block}: {command}"


def test_the_commands_are_found() -> None:
    found = {command.split()[0] for _, command in SHOWN}
    assert {*OURS, "nnUNetv2_train", "python", "torchrun", "pip", "scripts/demo", "scripts/test"} <= found


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("nnunet-ima-evl --noise 5", "unknown command nnunet-ima-evl"),
        ("nnunet-ima-eval --nosie 5", "one of the arguments --noise --rms is required"),
        ("nnunet-ima-eval --noise 5 --attack pdg", "must be among"),
        ("nnunet-ima-eval --noise 15,5", "must ascend"),
        ("nnunet-ima-eval --noise 5 -tr nnUNetTrainerIMMA", "no trainer nnUNetTrainerIMMA"),
        ("nnunet-ima-setup --check -d D4 --verbose", "unrecognized arguments: --verbose"),
        ('evil "$(nnunet-ima-setup)"', "unknown command evil"),
        ('eval "$(nnunet-ima-setpu)"', "unknown command nnunet-ima-setpu"),
        ("nnunet-ima-plan -d D4 --set trades.betta=1", "trades has no betta"),
        ("nnunet-ima-plan -d D4 --set tradez.beta=1", "no method 'tradez'"),
        ("nnunet-ima-classify train --data A --output B --method imma", "no method imma"),
        ("nnUNetv2_train D4 2d 0 --tr nnUNetTrainerIMA", "unrecognized arguments: --tr"),
        ("nnUNetv2_train D4 2d", "required: fold"),
        ("nnUNetv2_trian D4 2d 0", "there is no nnUNetv2_trian"),
        ("cd folder && nnUNetv2_plan_and_preprocess -d D4 -c 2d", "invalid"),
        ("X=1 python scripts/moons.py --mehods ce", "unrecognized arguments: --mehods"),
        ("python scripts/sun.py", "there is no scripts/sun.py"),
        ("python -m nnunet_ima.cli.eval --steps 5", "one of the arguments --noise --rms is required"),
        ("python scripts/compare_methods.py segmentation -d D4 --methods IMMA --noise 5 --output o", "no method IMMA"),
        (
            "python scripts/compare_methods.py classification --data D --methods ce --noise 5 --output o -- --x",
            "unrecognized arguments: --x",
        ),
        (
            "torchrun --nproc-per-node 2 -m nnunet_ima.cli.eval --nois 5",
            "one of the arguments --noise --rms is required",
        ),
        ("torchrun --nproc-per-nod-e 2 -m nnunet_ima.cli.eval --noise 5", "unrecognized arguments: --nproc-per-nod-e"),
        ("pip install 'nnunet-ima[corruption]'", "no extra corruption"),
        ("scripts/demmo", "scripts/demmo is not there"),
        ("scripts/gpu_check --no-env --minuets 5", "unrecognized arguments: --minuets"),
        ("curl x", "unknown command curl"),
    ],
)
def test_a_mistake_is_seen(command: str, complaint: str) -> None:
    assert complaint in " ".join(mistakes(command))


def test_a_mistake_in_a_page_is_collected() -> None:
    listed = "1. Do\n\n    ```sh\n    nnunet-ima-eval \\\n        --nosie 5\n    ```\n"
    text = f"Text\n\n{listed}\n```text\nnot a command\n```\n"
    blocks, rest = taken_apart(pages()[0], text)
    shell = [block for block in blocks if block.language in SHELL]
    assert [list(commands_in(block)) for block in shell] == [["nnunet-ima-eval --nosie 5"]]
    assert "nosie" not in rest and "1. Do" in rest


def test_of_a_console_session_the_typed_lines_count() -> None:
    block = Block(pages()[0], 1, "console", "$ nnunet-ima-setup --check\nReady.\n")
    assert list(commands_in(block)) == ["nnunet-ima-setup --check"]


@cache
def known_options() -> set[str]:
    """The flags of all commands that the documentation is about."""
    parsers = [parser_of(name) for name in (*OURS, *NNUNET, *RUN_BY_READERS)]
    return {flag for parser in parsers if parser for flag in options_of(parser)} | {"--no-env"}


def strange_flags(span: str) -> list[str]:
    """Flags in a span of inline code, behind a command or alone, that do not exist."""
    words = span.split()
    parser = parser_of(words[0]) if words[0] in (*OURS, *NNUNET) else None
    if parser is None and not FLAG.fullmatch(words[0]):
        return []
    known = known_options() if parser is None else options_of(parser)
    return [word for word in words if FLAG.fullmatch(word) and word not in known]


def test_flags_in_the_text_exist() -> None:
    strange = [
        f"{page.name}: `{span}`"
        for page in pages()
        for span in inline_code(taken_apart(page, page.read_text())[1])
        if strange_flags(span)
    ]
    assert strange == []


def test_a_strange_flag_in_the_text_is_seen() -> None:
    assert strange_flags("--noise-maxx 5") == ["--noise-maxx"]
    assert strange_flags("nnunet-ima-plan --audit") == ["--audit"]
    assert strange_flags("--audit") == []
