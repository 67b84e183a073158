"""Plain scientific English in every text that a user reads: no phrase of the list below occurs there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RIDDLES = {  # what to write instead: patterns, without capitals
    # Inanimate subjects do not speak, know, see or want.
    "state, report, record, set": r"says?|said|saying",
    "indicate, distinguish, determine": r"tells?|told|telling",
    "contain, record, be independent of": r"knows?|knew",
    "read, receive, detect": r"sees|saw|(?:frames?|networks?|kernels?|pixels?|layers?|runs?|steps?|it|they) see",
    "require, request, need": r"wants?|wanted|asks?|asked",
    "get zero weight, be weighted": r"weighs?|weighed",
    "vary, drift": r"wanders?|wandered",
    # Negations turned round.
    "is not a": r"(?:is|are) no(?<!there is no)(?<!there are no)(?! longer| more| less| \w+er than)",
    "there are no ...; is not": r"(?:is|are|was|were) none|(?:has|have|had) none",
    "only, except": r"(?:none|nothing|all|any|anything|everything|last|no \w+) but|but for",
    "is not in, lacks, does not contain": r"(?:has|have|had) not(?! yet\b| been\b| \w+(?:ed|en|wn|un|ne)\b)",
    "is not a ...": r"(?:is|are|was|were) not ones?",
    # Existence, making and taking.
    "exists, already exists": r"(?:is|are|was|were|be) there(?! (?:a|an|any|no|more)\b)",
    "is created, computed, written": r"(?:is|are|was|were|be|being|been) made|made (?:of|from)|makes? (?:\w+ )?of",
    "is assumed, read, subtracted": r"(?:is|are|was|were|be) taken",
    "again, recompute": r"anew",
    "started": r"begun",
    "continue, resume": r"(?:go|goes|going|gone|went) on(?! (?:the|a|an|top)\b)",
    "invalidate, undo": r"(?:takes?|took|taken|taking) (?:\w+ )?back",
    "unchanged": r"as (?:it|they) (?:is|are|was|were)",
    "identical, bit by bit": r"same bits",
    "lost, removed": r"(?:is|are|was|were) gone",
    "repair": r"mend(?:s|ed|ing)?",
    "running": r"at work",
    "obtain": r"be had",
    # Relative clauses without a noun, and turned ones.
    "name the thing: the quantity that ..., content, cost": r"what(?! to\b| happen)",
    "whose, of these": r"of (?:which|whom)",
    "of the ... (a noun)": r"of it",
    "in, of, from": r"wherein|thereof|therein|whereof|whence|thereupon|thereto|herein|hereby|lest|till|albeit|whereby",
    "these, this": r"such an?",
    "give the number; as many ... as": r"(?:that|this|so) many|as many as",
    "more, fewer before the noun": r"(?:an?|one|two|three) (?!or )\w+ (?:more|less|fewer)(?! than| or|[ -]\w+ than)",
    "minus": r"less (?:the|its|their|that|those|what)",
    "as in, as returned by": r"as of",
    "should, must": r"(?:is|are|was|were) to be",
    "also": r"(?:and|nor) so (?:is|are|does|do|has|have)",
    "equally, in the same way": r"alike",
    "search": r"looked for",
    "someone, a user": r"somebody|nobody",
    # Words of the field instead of words of the house.
    "position, pixel, folder": r"places?(?<!\bin place)(?<!mal place)(?<!mal places)(?<!takes place)(?<!take place)",
    "option, argument, name, text": r"words?(?<!64 words)(?<!in other words)(?! of bits)",
    "exceed, be listed, lie": r"stands?|stood",
    "to arrange": r"to lay|lays",
    "in full, unsplit, complete": r"(?:keeps?|kept|reads?|written|is|are|be|committed|copied|left|holds?) whole(?! n)",
    "useful": r"of use|use in it",
    "name the thing": r"things?",
}
SPACED = {advice: pattern.replace(" ", r"\s") for advice, pattern in RIDDLES.items()}
RIDDLE = re.compile(rf"\b(?:{'|'.join(SPACED.values())})\b")
CODE = re.compile(
    r"^ *(?:>>>|\.\.\.) .*$"  # examples
    r"|^ *[\w*{}]+(?:, [\w*{}]+)* : "  # names of parameters
    r"|``[^`]*``|`[^`\n]*`"  # names
    r"|^ *\|.*$|^#.*$",  # tables and headings of pages
    re.MULTILINE,
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of the docstrings and messages of a module, of comments in YAML and examples, or of a page."""
    text = path.read_text()
    if path.suffix == ".md":
        yield 1, re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    if path.suffix == ".yaml" or path.parent.name == "examples":
        yield from ((i, line.partition("# ")[2]) for i, line in enumerate(text.splitlines(), 1))
    if path.suffix == ".py":
        inside: set[ast.AST] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                inside.update(node.values)
                yield node.lineno, "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
                if " " in node.value:
                    yield node.lineno, node.value


def riddles(text: str) -> list[tuple[int, str, str]]:
    """Line within the text, phrase, and advice, for every phrase that is not plain."""
    text = CODE.sub(lambda m: re.sub(r"\w+", "X", m[0]), text.lower())
    text = re.sub(r"\n +", "\n", text)
    return [
        (text.count("\n", 0, m.start()), m[0].replace("\n", " "), advice)
        for m in RIDDLE.finditer(text)
        for advice in [next(a for a, p in SPACED.items() if re.compile(rf"\b(?:{p})\b").match(text, m.start()))]
    ]


def hits(folder: str, root: Path = ROOT) -> list[str]:
    """The phrases in a folder or a file, with their lines."""
    where = root / folder
    files = [where] if where.is_file() else sorted(p for s in ("py", "md", "yaml") for p in where.rglob(f"*.{s}"))
    return [
        f"{path.relative_to(root)}:{line + below}: '{phrase}' ({advice})"
        for path in files
        for line, text in texts(path)
        for below, phrase, advice in riddles(text)
    ]


FOLDERS = [
    *sorted(f"dfxm_dask/{p.name}" for p in (ROOT / "dfxm_dask").glob("[a-z]*") if p.is_dir() or p.suffix == ".py"),
    "configs",
    "scripts",
    "README.md",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_words__are_plain(folder: str) -> None:
    assert hits(folder) == []


@pytest.mark.parametrize(
    "text",
    [
        "Counts that do not exceed the background by this many standard deviations of noise weigh nothing",
        "an axis that the scan has not",
        "Say what the recipe takes",
        "Take back a step: it is no longer complete",
        "must be longer than what it holds",
        "x.zarr is there already",
        "x.zarr is no store",
        "The network knows nothing of brightness",
        "No hour is said",
        "The image of it",
        "Missing data are left as they are",
        "A run that was stopped goes on where it stopped",
        "Whether the layer has none",
        "The place of the weak beam",
        "The words of a recipe",
        "as none but the last",
        "a scan of which two layers are missing",
        "how much a layer more costs",
        "All steps are made anew",
        "Where the peak wanders",
        "the counts less their median",
        "The detection limit, which nothing\n    stands out of",
        "Axes that are kept whole",
    ],
)
def test_words__the_law_refuses_riddles(text: str) -> None:
    assert riddles(text)


@pytest.mark.parametrize(
    "text",
    [
        "Missing data are never replaced by zeros.",
        "Estimate the cost of RECIPE on STORE.",
        "Counts less than noise_cut standard deviations above the background get zero weight.",
        "x.zarr already exists; choose another name, or pass --overwrite.",
        "There is no reflection of this length, and the step is no longer complete.",
        "See :func:`dfxm_dask.moments`; the sums are computed in place, to two decimal places.",
        "The file records no monitor. See Methods for what to do.",
        "``what`` : the option ``words``, as in `place`",
        "what, words : str\n    Parts to export.",
        ">>> what = made_of('words')  # doctest: +SKIP",
    ],
)
def test_words__the_law_accepts_plain_english(text: str) -> None:
    assert riddles(text) == []
