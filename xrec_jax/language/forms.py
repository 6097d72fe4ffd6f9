"""Does an explanation have the form that its prompt asked for (RecPIE, appendix A.1)?

A prompt template NAME has its form in NAME_form.jinja, which the prompt quotes and `follows` reads, so that the two
cannot differ. A form is one sentence, "..." for any words in it; several lines are several forms, one of which will do:

    The user watched this movie because the user ... and the movie ...
"""

import functools
import re
from collections.abc import Sequence

import numpy as np

ABBREVIATIONS = ('Mr', 'Mrs', 'Ms', 'Dr', 'Prof', 'St', 'Jr', 'Sr', 'vs', 'No', 'Vol', 'Pt')
_QUOTES = '"\'“”‘’ '
# A sentence ends before a blank and a capital, but not behind a single letter ("E. T.") or an abbreviation.
_END = re.compile(''.join(rf'(?<!\b{word})' for word in (r'\w', *ABBREVIATIONS)) + r'[.!?]["\')”’]*\s+["\'(“‘]*[A-Z]')


def follows(form: str, texts: Sequence[str], names: Sequence[str] = ()) -> np.ndarray:
    """bool [N]: which texts are exactly one sentence of the form, in any case, with or without quotes around it.

    names: of each text a title whose own full stops and capitals do not count; none by default.
    """
    patterns = _patterns(form)
    names = names or [''] * len(texts)
    plain = [_plain(text.replace(name, 'it') if name else text) for text, name in zip(texts, names, strict=True)]
    return np.array([not _END.search(text) and any(pattern.fullmatch(text) for pattern in patterns)
                     for text in plain], bool)


@functools.lru_cache(maxsize=256)
def _patterns(form: str) -> tuple[re.Pattern, ...]:
    forms = [line.strip().rstrip('.').strip() if not line.strip().endswith('...') else line.strip()
             for line in form.splitlines() if line.strip()]
    return tuple(re.compile(r'\s+'.join(r'\S.*?' if part == '...' else re.escape(part.strip())
                                        for part in re.split(r'(\.\.\.)', line) if part.strip()) + r'[.!?]?',
                            re.IGNORECASE) for line in forms)


def _plain(text: str) -> str:
    return ' '.join(text.split()).strip(_QUOTES)
