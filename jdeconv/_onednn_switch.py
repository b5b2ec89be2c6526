"""The switch of oneDNN: on, off, or off for some calls, as `use_onednn` and `JDECONV_ONEDNN` have it. No JAX here.

Calls have a type and a class. A class is named by what it is more than a plain convolution: 'grouped strided
convolution'.
"""

from ._arguments import concrete, shown
from ._errors import either, refusal

ADJECTIVES = ("grouped", "strided", "dilated")
DTYPES = ("float32", "bfloat16")
WORDS = (*ADJECTIVES, "convolution", *DTYPES)

Switch = bool | tuple[str, ...]
"""Whether oneDNN may be called; as a tuple: it may, but for these calls."""


def read_switch(name: str, value: object) -> Switch:
    """The switch of oneDNN, from a bool, '1', '0', 'on', 'off', or what is off: 'off:grouped,bfloat16 strided'.

    An unknown word is refused: someone who switches off a fault must not believe that it is off.
    """
    value = concrete(value)
    if type(value).__name__ == "bool":
        return bool(value)
    expected, mend = "expected True, False or 'off:' and words", f"The words are {either(WORDS)}."
    if not isinstance(value, str):
        raise refusal(TypeError, name, shown(value), "neither a bool nor a string", expected, mend)
    if value in ("1", "on", "0", "off"):
        return value in ("1", "on")
    start, colon, calls = value.partition(":")
    if start != "off" or not colon:
        raise refusal(ValueError, name, repr(value), "unknown", "expected '1', '0' or 'off:' and words", mend)
    items = sorted({" ".join(sorted(item.split(), key=_place)) for item in calls.split(",")})
    for words in map(str.split, items):
        unknown = [word for word in words if word not in WORDS]
        if unknown or not words or len({*DTYPES} & {*words}) > 1:
            problem = "two types at once" if words else "a word is missing"
            if unknown:
                problem = f"unknown word {unknown[0]!r}"
            expected = f"expected words of {either(WORDS)}"
            mend = "Separate by commas what is to be off, as in 'off:grouped,bfloat16 strided'."
            raise refusal(ValueError, name, repr(value), problem, expected, mend)
    return tuple(items)


def _place(word: str) -> int:
    return WORDS.index(word) if word in WORDS else len(WORDS)


def switched_off(switch: Switch, dtype: str, kind: str) -> str | None:
    """What of the switch covers calls of this class in this type: an item all of whose words apply.

    An item with 'convolution' is the class of just these adjectives, one without it each class that has them.
    """
    for item in () if isinstance(switch, bool) else switch:
        words = {*item.split()}
        if words <= {dtype, *kind.split()} and ("convolution" not in words or words - {*DTYPES} == {*kind.split()}):
            return item
    return None
