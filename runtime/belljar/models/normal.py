"""The most bytes that a text can have once a tokenizer has normalised it: a bound in linear time.

A tokenizer that works on bytes makes no more tokens than it gets bytes. Some normalise first (NFKC), which makes a few
texts longer: one Arabic character stands for a phrase of 18. Normalising here would give the exact length, but take
time that grows with the square of a run of combining marks: minutes for one prompt. So the length is bounded character
by character, from Unicode's tables:

* A character grows by itself when its own normal form has more bytes: `_EXCESS_BYTES`, by how many.
* A composed character, like an e with an acute, is decomposed and composed again. A mark after it may get in between,
  so that it stays decomposed: `_COMPOSED` before `_MARKS`, at most `_APART_BYTES` more.
* Everything else gets shorter or stays: no composed character has more bytes than the two that it is made of.

The tables are those of Unicode 14; the tests compare them with Python's. Ranges are written as in a regular expression.
"""

from __future__ import annotations

import functools
import re
from typing import Final

__all__ = ["normal_bytes_bound"]

_APART_BYTES: Final = 6

_EXCESS_BYTES: Final[dict[int, str]] = {
    1: (
        "\u00a8\u00af\u00b4\u00b8\u013f\u0140\u0149\u01c4-\u01c6\u02d8-\u02dd\u037a\u0384\u215f\u2167\u2177\u247d-"
        "\u2487\u309b\u309c\u32c0-\u32c8\u3358-\u3361\u3389\u33c2\u33d8\u33e0-\u33e8\ufa6c\ufacf-\ufad1\ufad5-\ufad7"
        "\ufb13-\ufb17\ufb1d\ufb1f\ufb2a\ufb2b\ufb2e-\ufb36\ufb38-\ufb3c\ufb3e\ufb40\ufb41\ufb43\ufb44\ufb46-\ufb4f"
        "\ufbdd\ufbea-\ufbfb\ufc00-\ufc5d\ufc64-\ufcf1\ufcf5-\ufd3d\ufe71\ufe77\ufe79\ufe7b\ufe7d\ufe7f\ufef5-\ufefc"
    ),
    2: (
        "\u0344\u0587\u0675-\u0678\u1fc1\u1fcd-\u1fcf\u1fdd-\u1fdf\u1fed\u1fee\u2150\u2151\u2153-\u215e\u2189\u2adc"
        "\u3200-\u321c\u3220-\u3243\u32c9-\u32cb\u3362-\u3370\u33a7\u33de\u33df\u33e9-\u33fe\ufc5e-\ufc63\U0001f200"
        "\U0001f201"
    ),
    3: (
        "\u00bc-\u00be\u0385\u0958-\u095f\u09dc\u09dd\u09df\u0a33\u0a36\u0a59-\u0a5b\u0a5e\u0b5c\u0b5d\u0e33\u0eb3"
        "\u0edc\u0edd\u0f43\u0f4d\u0f52\u0f57\u0f5c\u0f69\u0f73\u0f75\u0f76\u0f78\u0f81\u0f93\u0f9d\u0fa2\u0fa7\u0fac"
        "\u0fb9\u2033\u2036\u2152\u222c\u222f\u309f\u30ff\u327c\u327d\u32ff\u3310\u3314\u3325-\u3328\u3330\u3331"
        "\u3337\u333f\u3349\u334b\u3352\u3355\u337b-\u337e\u33a8\u33c6\ufb2c\ufb2d\ufcf2-\ufcf4\ufd50-\ufd8f\ufd92-"
        "\ufdc7\ufdf0\ufdf1\ufdf9\U0001f12a"
    ),
    4: "\u33ae\U0001d15e\U0001d15f\U0001d1bb\U0001d1bc",
    5: "\u321d\u321e\u33af\ufdf2-\ufdf8\ufdfc\U0001f240-\U0001f248",
    6: (
        "\u0f77\u0f79\u2034\u2037\u222d\u2230\u3303\u3305\u3306\u3309-\u330b\u330e\u330f\u3311\u3318\u331c-\u331e"
        "\u3322-\u3324\u3329\u332a\u332c\u332f\u3335\u3338-\u333c\u333e\u3340-\u3342\u3344-\u3346\u334e-\u3350\u3353"
        "\u3357"
    ),
    8: "\U0001d160-\U0001d164\U0001d1bd-\U0001d1c0",
    9: (
        "\u2057\u2a0c\u3300-\u3302\u3304\u3308\u330c\u330d\u3312\u3313\u331b\u331f\u3321\u332d\u3333\u333d\u3343"
        "\u3348\u334c\u334d\u3351\u3354\u337f"
    ),
    12: "\u3307\u3315\u3317\u3319\u331a\u3320\u332b\u332e\u3332\u3334\u3336\u3347\u334a\u3356\ufdfb",
    15: "\u3316",
    30: "\ufdfa",
}
_COMPOSED: Final = (
    "\u00c0-\u00c5\u00c7-\u00cf\u00d1-\u00d6\u00d9-\u00dd\u00e0-\u00e5\u00e7-\u00ef\u00f1-\u00f6\u00f9-\u00fd"
    "\u00ff-\u010f\u0112-\u0125\u0128-\u0130\u0134-\u0137\u0139-\u013e\u0143-\u0148\u014c-\u0151\u0154-\u0165"
    "\u0168-\u017e\u01a0\u01a1\u01af\u01b0\u01c4-\u01c6\u01cd-\u01dc\u01de-\u01e3\u01e6-\u01f0\u01f4\u01f5\u01f8-"
    "\u021b\u021e\u021f\u0226-\u0233\u0386\u0388-\u038a\u038c\u038e-\u0390\u03aa-\u03b0\u03ca-\u03ce\u03d3\u03d4"
    "\u0400\u0401\u0403\u0407\u040c-\u040e\u0419\u0439\u0450\u0451\u0453\u0457\u045c-\u045e\u0476\u0477\u04c1"
    "\u04c2\u04d0-\u04d3\u04d6\u04d7\u04da-\u04df\u04e2-\u04e7\u04ea-\u04f5\u04f8\u04f9\u0622-\u0626\u06c0\u06c2"
    "\u06d3\u0929\u0931\u0934\u0c48\u0dda\u0ddd\u1e08\u1e09\u1e14-\u1e17\u1e1c\u1e1d\u1e2e\u1e2f\u1e38\u1e39"
    "\u1e4c-\u1e53\u1e5c\u1e5d\u1e64-\u1e69\u1e78-\u1e7b\u1ea4-\u1eb7\u1ebe-\u1ec7\u1ed0-\u1ee3\u1ee8-\u1ef1"
    "\u1f00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-"
    "\u1fb4\u1fb6-\u1fbc\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-"
    "\u1ffc\u212b\u219a\u219b\u21ae\u21cd-\u21cf\u2204\u2209\u220c\u2224\u2226\u2241\u2244\u2247\u2249\u2262"
    "\u226d\u2270\u2271\u2274\u2275\u2278\u2279\u2280\u2281\u2284\u2285\u2288\u2289\u22ac-\u22af\u22e0-\u22e3"
    "\u22ea-\u22ed\u304c\u304e\u3050\u3052\u3054\u3056\u3058\u305a\u305c\u305e\u3060\u3062\u3065\u3067\u3069"
    "\u3070\u3071\u3073\u3074\u3076\u3077\u3079\u307a\u307c\u307d\u3094\u309e\u30ac\u30ae\u30b0\u30b2\u30b4\u30b6"
    "\u30b8\u30ba\u30bc\u30be\u30c0\u30c2\u30c5\u30c7\u30c9\u30d0\u30d1\u30d3\u30d4\u30d6\u30d7\u30d9\u30da\u30dc"
    "\u30dd\u30f4\u30f7-\u30fa\u30fe\u3300\u3302\u3304\u3307\u330e-\u3311\u3313\u3315\u3318-\u331a\u331e\u3321"
    "\u3324-\u3326\u332b-\u3332\u3334\u3337\u3338\u333a-\u333e\u3340\u334a-\u334c\u334e\u3353\u3354\u3356\ufba4"
    "\ufba5\ufbb0\ufbb1\ufbea-\ufbfb\ufc00-\ufc04\ufc64-\ufc69\ufc97-\ufc9b\ufcdf\ufce0\ufe81-\ufe8c\ufef5-\ufefa"
    "\U0001109a\U0001109c\U000110ab\U0001f213"
)
_MARKS: Final = (
    "\u0300-\u034e\u0350-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-"
    "\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07eb-\u07f3\u07fd\u0816-"
    "\u0819\u081b-\u0823\u0825-\u0827\u0829-\u082d\u0859-\u085b\u0898-\u089f\u08ca-\u08e1\u08e3-\u08ff\u093c"
    "\u094d\u0951-\u0954\u09bc\u09cd\u09fe\u0a3c\u0a4d\u0abc\u0acd\u0b3c\u0b4d\u0bcd\u0c3c\u0c4d\u0c55\u0c56"
    "\u0cbc\u0ccd\u0d3b\u0d3c\u0d4d\u0dca\u0e38-\u0e3a\u0e48-\u0e4b\u0eb8-\u0eba\u0ec8-\u0ecb\u0f18\u0f19\u0f35"
    "\u0f37\u0f39\u0f71-\u0f75\u0f7a-\u0f7d\u0f80-\u0f84\u0f86\u0f87\u0fc6\u1037\u1039\u103a\u108d\u135d-\u135f"
    "\u1714\u1715\u1734\u17d2\u17dd\u18a9\u1939-\u193b\u1a17\u1a18\u1a60\u1a75-\u1a7c\u1a7f\u1ab0-\u1abd\u1abf-"
    "\u1ace\u1b34\u1b44\u1b6b-\u1b73\u1baa\u1bab\u1be6\u1bf2\u1bf3\u1c37\u1cd0-\u1cd2\u1cd4-\u1ce0\u1ce2-\u1ce8"
    "\u1ced\u1cf4\u1cf8\u1cf9\u1dc0-\u1dff\u20d0-\u20dc\u20e1\u20e5-\u20f0\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-"
    "\u302f\u3099\u309a\ua66f\ua674-\ua67d\ua69e\ua69f\ua6f0\ua6f1\ua806\ua82c\ua8c4\ua8e0-\ua8f1\ua92b-\ua92d"
    "\ua953\ua9b3\ua9c0\uaab0\uaab2-\uaab4\uaab7\uaab8\uaabe\uaabf\uaac1\uaaf6\uabed\ufb1e\ufe20-\ufe2f\uff9e"
    "\uff9f\U000101fd\U000102e0\U00010376-\U0001037a\U00010a0d\U00010a0f\U00010a38-\U00010a3a\U00010a3f\U00010ae5"
    "\U00010ae6\U00010d24-\U00010d27\U00010eab\U00010eac\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011046"
    "\U00011070\U0001107f\U000110b9\U000110ba\U00011100-\U00011102\U00011133\U00011134\U00011173\U000111c0"
    "\U000111ca\U00011235\U00011236\U000112e9\U000112ea\U0001133b\U0001133c\U0001134d\U00011366-\U0001136c"
    "\U00011370-\U00011374\U00011442\U00011446\U0001145e\U000114c2\U000114c3\U000115bf\U000115c0\U0001163f"
    "\U000116b6\U000116b7\U0001172b\U00011839\U0001183a\U0001193d\U0001193e\U00011943\U000119e0\U00011a34"
    "\U00011a47\U00011a99\U00011c3f\U00011d42\U00011d44\U00011d45\U00011d97\U00016af0-\U00016af4\U00016b30-"
    "\U00016b36\U00016ff0\U00016ff1\U0001bc9e\U0001d165-\U0001d169\U0001d16d-\U0001d172\U0001d17b-\U0001d182"
    "\U0001d185-\U0001d18b\U0001d1aa-\U0001d1ad\U0001d242-\U0001d244\U0001e000-\U0001e006\U0001e008-\U0001e018"
    "\U0001e01b-\U0001e021\U0001e023\U0001e024\U0001e026-\U0001e02a\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-"
    "\U0001e2ef\U0001e8d0-\U0001e8d6\U0001e944-\U0001e94a"
)


def normal_bytes_bound(text: str, start: int, stop: int) -> int:
    """The most bytes of any normal form of `text[start:stop]`, including what it does to the character before it."""
    piece = text[start:stop]
    if piece.isascii():
        return len(piece)
    size = len(piece.encode(errors="surrogatepass"))
    growing, excess, apart = _patterns()
    size += sum(map(excess.__getitem__, growing.findall(text, start, stop)))
    return size + _APART_BYTES * len(apart.findall(text, start, stop))


@functools.cache
def _patterns() -> tuple[re.Pattern[str], dict[str, int], re.Pattern[str]]:
    """What grows, by how much, and marks that may decompose the character before them."""
    growing = re.compile(f"[{''.join(_EXCESS_BYTES.values())}]")
    excess = {char: size for size, ranges in _EXCESS_BYTES.items() for char in _members(ranges)}
    return growing, excess, re.compile(f"(?<=[{_COMPOSED}])[{_MARKS}]")


def _members(ranges: str) -> str:
    return re.sub("(.)-(.)", lambda ends: "".join(map(chr, range(ord(ends[1]), ord(ends[2]) + 1))), ranges)
