r"""What never changes the meaning of an answer, taken away: layout, faces, colours, delimiters, Unicode for LaTeX."""

from __future__ import annotations

import re
import unicodedata

from stepjepa.data.boxes import closed_braces

MINUS_SIGNS = dict.fromkeys(map(ord, "−–‐‑﹣－"), "-")
"""Characters that stand for a minus sign; the longer dash `—` is punctuation."""

_GREEK = {
    letter: "\\" + unicodedata.name(chr(letter)).split()[3].lower() + " "
    for letter in range(0x3B1, 0x3CA)
    if letter not in (0x3BF, 0x3C2)  # omicron, final sigma
}
_CHARACTERS = (
    MINUS_SIGNS
    | {0xFF01 + offset: chr(0x21 + offset) for offset in range(94)}  # `５`, `（`: full width
    | _GREEK
    | dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2009, 0x200A, 0x202F, 0x3000), " ")
    | dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0x2061, 0x2062, 0xFEFF), None)
    | str.maketrans({"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∞": r"\infty "})
    | str.maketrans({"°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm "})
    | str.maketrans({"∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "Ω": r"\Omega ", "Δ": r"\Delta "})
    | str.maketrans({"、": ",", "’": "'", "′": "'", "“": '"', "”": '"', "ℝ": r"\mathbb{R}", "Σ": r"\Sigma "})
)
_FRACTION = re.compile("[¼½¾⅐-⅞]")  # `½`
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SCRIPT = re.compile("([⁰¹²³⁴-⁹⁺⁻ⁿ]+)|([₀-₉]+)")  # `²`, `⁻¹`; `₁₂`
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9.]+|[A-Za-z]|\\pi))")  # `√3`, `√(x+1)`

# `\hspace{2mm}`, `\phantom{0}`, `\tag{1}`, `\kern2pt`
_SPACE = r"\\(?:[hv]space\*?|[hv]?phantom|tag\*?|label)\s*\{[^{}]*\}|\\m?kern\s*-?[0-9.]+\s*[a-z]{2}"
# `\left.`, `\right`, `\bigl`, `\Bigg`; not `\bigcup`
_SIZE = r"\\(?:left|right|middle)\s*\.|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])"
# `\displaystyle`, `\bf`, `\Large`
_SWITCH = (
    r"\\(?:(?:display|text|script)style|(?:no)?limits|bf(?:series)?|it(?:shape)?|rm|sf|tt|sc|em|boldmath|tiny|scriptsize|"
    r"footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge|centering|noindent|strut|mathstrut|nobreak)(?![A-Za-z])"
)
# A new row: `\\`, `\\[2mm]`. A space: `\,`, `\quad`, `~`. Nothing: `\!`, `\(`, and all of the above.
_LAYOUT = re.compile(
    r"(?P<row>\\\\(?:\[[0-9.]+\s*[a-z]{2}\])?)|(?P<space>\\[,;:> ]|\\q?quad(?![A-Za-z])|\\thinspace(?![A-Za-z])|~)|"
    rf"\\!|\\[\[\]()]|{_SPACE}|{_SIZE}|{_SWITCH}"
)
# Between groups of digits: `1{,}234`, `1\,234`
_SEPARATOR = re.compile(
    r"(?<=[0-9])(?:\{,\}|,\\!|\\,|\\;|\\ |\{\\,\}|,\\,)(?=[0-9]{3}(?![0-9]))"
)  # `1{,}234`, `1\,234`
_COLOR = re.compile(r"\\(?:text)?color\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}\s*(\{)?")
_ROMAN = re.compile(r"\{\s*\\(?:rm|textrm|mathrm)(?![A-Za-z{])\s*([^{}]*)\}")  # `{\rm cm}`
# Faces, whose argument is what counts: `\mathbf{5}`, `\boldsymbol{x}`, `\underline{5}`, `\boxed{5}`
_FACE = re.compile(
    r"\\(?:textbf|textit|textsl|textsc|texttt|emph|underline|uline|mathbf|mathit|mathtt|mathnormal|boldsymbol|pmb|bm|"
    r"ensuremath|mathop|mathord|boxed|fbox|framebox|mathstrut|smash)\s*\{"
)
_SYNONYMS = {"leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lbrace": "{", "rbrace": "}"}
_SYNONYM = re.compile(rf"\\({'|'.join(_SYNONYMS)})(?![A-Za-z])")
# `\dfrac`, `\frac\pi`; not `\fraction`.
_FRAC = re.compile(r"\\[dtc]?frac(?![A-Za-z])\s*(\\pi(?![A-Za-z]))?")
# `\text{ cm}`, `\mathrm{5}`; not `\text{a {b}}`.
WRAPPER = re.compile(r"\\(?:text|textrm|textup|textnormal|textsf|mathrm|mathsf|mbox|hbox)\s*\{([^{}]*)\}")


def tidy(answer: str) -> str:
    """LaTeX of an answer with single spaces, without layout; words in ``\\text`` and currency signs stay."""
    text = _FRACTION.sub(_vulgar, answer)
    text = _SCRIPT.sub(_script, text).translate(_CHARACTERS)
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = _SEPARATOR.sub(",", text).replace("{:}", ":")
    text = _ROMAN.sub(r"\\mathrm{\1}", text)
    text = _COLOR.sub(lambda match: r"\mathbf{" if match[1] else "", text)
    text = _LAYOUT.sub(lambda match: r"\\" if match["row"] else " " if match["space"] else "", text)
    text = _SYNONYM.sub(lambda match: "\\" + _SYNONYMS[match[1]] + ("" if match[1].endswith("brace") else " "), text)
    text = unwrapped(strip_marks(" ".join(_without_faces(text).split())))
    return _FRAC.sub(lambda match: r"\frac" + (r"{\pi}" if match[1] else ""), text)


def strip_marks(text: str) -> str:
    """Without what closes a sentence, a bold face or a line: ``12.``, ``**12**``, ``12\\\\``."""
    return text.strip(" *").rstrip(" .,;:*\\。！")


def _vulgar(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def _script(match: re.Match[str]) -> str:
    return f"^{{{match[1].translate(_RAISED)}}}" if match[1] else f"_{{{match[2].translate(_LOWERED)}}}"


def _without_faces(text: str) -> str:
    closed = closed_braces(text)
    parts: list[tuple[int, int]] = []  # to be left out
    for match in _FACE.finditer(text):
        end = closed.get(match.end())
        if end is None:
            continue
        before = text[: match.start()].rstrip()
        if before.endswith(("^", "_", "}")) or re.search(r"\\[A-Za-z]+$", before[-20:]):
            parts.append((match.start(), match.end() - 1))  # an argument keeps its braces
        else:
            parts += [(match.start(), match.end()), (end - 1, end)]
    kept, position = [], 0
    for start, end in sorted(parts):
        kept.append(text[position:start])
        position = end
    return "".join([*kept, text[position:]])


def unwrapped(text: str) -> str:
    """Without what encloses the whole: ``$…$``, ``{…}``, ``\\text{…}``."""
    while True:
        before = text
        if (len(text) > 1 and text[0] == text[-1] == "$" and not text.endswith("\\$")) or (
            text.startswith("{") and closed_braces(text).get(1) == len(text)
        ):
            text = text[1:-1]
        elif whole := WRAPPER.fullmatch(text):
            text = whole[1]
        if text == before:
            return text
        text = strip_marks(text)
