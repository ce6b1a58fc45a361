"""Set phrases and notations of prompts, in plain words: "no more than two" is a count. Pure functions."""

from __future__ import annotations

import re

FILLERS = frozenset(  # English words that say nothing of the picture; each world has further ones
    "i m d ll ve re im me my we us our you your would could should can may might must will shall let lets want wants "
    "wish need love prefer generate create make render imagine depict depicts display video clip film movie image "
    "photo photograph shot be being been get gets now here where what which who whose whom each every everything "
    "such same so as too for they them their theirs these those he contain contains containing feature features "
    "featuring include includes including sit sits sitting located placed situated positioned seen see visible "
    "appear appears appearing show shows showing come comes coming coloured colored colour color colours colors "
    "side sides more extra additional new former latter last maybe perhaps possibly either having respectively late "
    "turn turns turned turning become becomes became change changes changed into put give gives go goes keep keeps "
    "begins starts makes walled lighting place weather ground setting than his her hers again "
    "yet got prompt time thank thanks there".split()
)
_COUNTS = ("one", "two", "three", "four")
_NUMBER = rf"(?:\d{{1,3}}|{'|'.join(_COUNTS)})"
_WORDS = (  # pattern, plain words
    (r"\b(?:no|not) (?:more|less|fewer) than\b|\bat (?:least|most)\b", " "),
    (rf"\b(?:up to|exactly|precisely|roughly|approximately|about|almost|nearly) (?={_NUMBER}\b)", " "),
    (r"\bno(?:thing|ne)(?: other than| but| except| else| more)\b|\bno other than\b", " only "),
    (r"\bnot (?:only|just|merely|simply)\b", " "),
    (r"\b(?:as well as|together with|along with|alongside|plus)\b", " and "),
    (r"\bas well\b", " "),
    (r"\b(left|right)[- ]hand\b", r"\1"),
    (r"\bon (?:both|each|either) sides? of\b", "beside"),
    (r"\bon (?:both|each|either) sides?\b", "on the left and right"),
    (r"\bothers\b|(?<=\bthe )rest\b", "other ones"),
    (r"\bin (?:the )?place of\b", "instead of"),
    (r"\bwhy not\b", " "),
    (r"\b(?:snow-(?=white)|grass-(?=green)|blood-(?=red))", ""),
    (r"(?:\s-+\s|\s*[–—]\s*)", ", "),
    (r"\b(?:without (?:a |any )?doubt|no (?:doubt|problem))\b", " "),
    (r"\bw/(?:o|out)\b", "without"),
    (r"\bw/ ?(?=\w)", "with "),
    (r"\b([a-z]+) ?[:=] ?(?:none|no|0|zero)(?=\s*(?:[,;.\n]|$))", r"no \1"),
    (r"(?<=\S )-(?=[a-z]+(?:[\s,;.]|$))", ", no "),  # "house -mill"
    (r"\b([a-z]+)-free\b", r"\1less"),
    (r"\bhalf[- ](?:a[- ])?dozen\b", "dozen"),
    (r"(?<=[a-z]) then\b", ", then"),  # not said of the thing before
    (r"\b(?:from (?:the )?)?left to (?:the )?right\b", " "),  # the order in which things without a place stand
    (r"\b(?:light|subject|time of day|season) ?[:=]", " "),
    (r"\bsun (?:is )?(?:sets?|setting|(?:goes|going) down)\b|\bsetting sun\b|\bsundown\b", "sunset"),
    (r"\bsun (?:is )?(?:rises?|rising|(?:comes|coming) up)\b|\brising sun\b|\bdaybreak\b", "sunrise"),
    (r"\b(night|evening|morning|dawn|dusk) (?:falls|comes|breaks|begins)\b|\b(night)fall\b", r"\1\2"),
    (r"\bfollowed by\b", ", then"),
    (r"\btopped with\b", "with"),
    (r"(?<!snow[- ])\b(?:capped|topped)\b", "roofed"),
    (r"\bon top of\b", "atop"),
    (r"\b(?:at|in) the (?:top|bottom)\b", "above"),
    (r"\b(morning|evening|sunset|sunrise|dawn|dusk|night|twilight) light\b", r"\1"),
    (r"\b(?:all|that's|you're) right\b", " "),
    (r"(?<!the )\bright (?=(?:now|away|after|before|behind|beside|next)\b)", " "),
    (r"(?<!the )\bright (?=(?:in|at|on) the (?:left|right|middle|cent(?:er|re))\b)", " "),
    (r"\b(?:in )?the middle of (?:the )?(?=(?:night|day|morning|winter|summer)\b)", " "),
    (r"\b1st\b", "first"),
    (r"\b2nd\b", "second"),
    (r"\b3rd\b", "third"),
    (r"\b(\d+) ?[x×*] ?(?=[a-z])", r"\1 "),
    (r"\b([a-z]+)(?: [x×]| ?\*) ?(\d+)\b", r"\2 \1"),
)
_PHRASES = tuple((re.compile(pattern), words) for pattern, words in _WORDS)
_COMPARED = re.compile(rf"\b(more|less|fewer) than (?:(an?)|({_NUMBER}))\b")
_WEIGHT = re.compile(r":\s*\d+(?:\.\d+)?\s*(?=[)\]>])")
_LISTED = re.compile(r"^\s*\(?1[.)]\s", re.M)
_MARKER = re.compile(r"(?:^|(?<=\s))\(?\d{1,2}[.)](?=\s+\D)", re.M)


def weights(text: str) -> list[str]:
    """The weights of a prompt in the notation "(red house:1.3)", each once."""
    return list(dict.fromkeys(re.sub(r"\s", "", found) for found in _WEIGHT.findall(text)))


def rewritten(text: str) -> str:
    """A text in lower case without weights and the numbers of a list, and with set phrases in plain words."""
    text = _WEIGHT.sub(" ", text)
    if _LISTED.search(text):
        text = _MARKER.sub("\n", text)
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    return _COMPARED.sub(_as_count, text)


def _as_count(found: re.Match[str]) -> str:
    """The nearest count that "more than two" or "fewer than two" allows."""
    said = "one" if found[2] else found[3]
    count = int(said) if said.isdecimal() else 1 + _COUNTS.index(said)
    allowed = max(1, count + 1 if found[1] == "more" else count - 1)
    return _COUNTS[allowed - 1] if allowed <= len(_COUNTS) else str(allowed)
