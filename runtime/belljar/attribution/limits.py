"""The numbers that decide when text counts as shown, and what finding out may cost; all of `attribution` uses these.

Lengths are in bytes, unless the name ends otherwise. Each was found by trying it on prompts of many shapes, which are
the tests of tracing.
"""

from __future__ import annotations

from typing import Final

__all__: list[str] = []

# ------------------------------------------------------------------------------------------------- What counts as shown

# A shorter line is everywhere and says nothing by itself.
LINE_BYTES_MIN: Final = 12
# A longer line is found as a slice is.
LINE_BYTES_MAX: Final = 4 << 10
# White space on either side of what was shown: indentation and a few line ends, no more than a short line.
BLANK_BYTES_MAX: Final = 64
# This much agreement is no accident: no better place is looked for.
CERTAIN_BYTES: Final = 512
# Rulers, indentation and padding have fewer; they are everywhere and say nothing.
DIFFERENT_BYTES_MIN: Final = 5
# Up to this much of a line is taken for an accident if the prompt leaves the document in the middle of a word.
ACCIDENT_BYTES_MAX: Final = 128
# How far a find may overlap what was found before.
OVERLAP_BYTES_MAX: Final = 1 << 10
# The most short neighbours in one run.
PIECES_MAX: Final = 12
# At most this much is left of a row whose line was found: what was put before it.
BULLET_BYTES_MAX: Final = 6
# How far a short line looks over white space for something shown.
BESIDE_BYTES_MAX: Final = 1 << 10

# ------------------------------------------------------------------------ Where the document goes on as the prompt does

# How far away the document's next line may be: after the instructions of a prompt, and after what was just found.
FIRST_REACH_BYTES: Final = 64 << 10
REACH_BYTES: Final = 4 << 10
# A short line is at most this far after the one before it.
DECORATION_BYTES_MAX: Final = 16
# How much of the document is looked for next: this many lines, within this many bytes, each by its first bytes.
NEXT_LINES: Final = 4
NEXT_BYTES: Final = 1 << 10
NEEDLE_BYTES_MAX: Final = 64

# --------------------------------------------------------------------- Anchors that are looked for in all that was read

# First long ones, of which few are anywhere by accident, then short ones.
LONG: Final = 48
SHORT: Final = 24
# Places of one anchor that are compared.
PLACES_MAX: Final = 8
# RE2 goes through text at 400 MB/s with this many literals, and at 100 with four times as many.
ANCHORS_MAX: Final = 128
ANCHORS_PER_GAP: Final = 4
# Where in a gap to look for a long slice.
SOUNDINGS: Final = (0.5, 0.25, 0.75)
# After this many hits that tell nothing new, it is worth compiling again without the anchors that are everywhere.
WASTE_MAX: Final = 1000

# --------------------------------------------------------------------------------------- Edges of lines that were found

# How far what is beside a find is compared to tell places apart.
EDGE_BYTES_MAX: Final = 256
# Different edges beside equal lines.
EDGES_PER_LINE_MAX: Final = 256
# Within this many lines there is one that is long enough to be looked for.
EDGE_LINES_MAX: Final = 4
# Places of a line that differ in what is beside them.
EDGE_PLACES_MAX: Final = 1000
# In a call of at least this many prompts, what is beside the finds of most of them is the instructions.
PROMPTS_ALIKE_MIN: Final = 16

# --------------------------------------------------------------- What it may cost, in bytes gone through and bytes kept

# In all, for one group of prompts.
SCAN_BYTES_MAX: Final = 4 << 30
# What compiling anchors, growing a find and trying an edge count as.
COMPILE_COST_BYTES: Final = 1 << 20
GROWTH_COST_BYTES: Final = 1 << 12
EDGE_COST_BYTES: Final = 1 << 10
# A gap is split in this many ways, in stretches of this length: short pieces take a hundred times their bytes.
WAYS: Final = 10
STRETCH_BYTES: Final = 64 << 10
AUTOMATON_BYTES_MAX: Final = 64 << 20
# What is taken out of a document at once.
BLOCK_BYTES: Final = 1 << 20
# Pieces of prompts that are indexed at once.
GRAMS_MAX: Final = 1 << 18

# -------------------------------------------------------------------------------- What more than one place accounts for

# Different lines that are spare, and halves that wait: what memory allows. Whatever is beyond counts as not shown.
SPARE_LINES_MAX: Final = 1 << 20
SPARE_BYTES_MAX: Final = 128 << 20
PARTS_MAX: Final = 1 << 18
# How many of the spare texts are tried to find one that begins or ends as a half does.
LONGER_MAX: Final = 256
