"""The colours of all pictures: Okabe and Ito's, which readers with any kind of colour vision can tell apart.

Color Universal Design, 2008.
"""

from __future__ import annotations

KIND_COLOURS = {
    "gemm": "#0072B2", "bmm": "#56B4E9", "attention": "#E69F00", "reduction": "#009E73", "elementwise": "#F0E442",
    "copy": "#D55E00", "gather": "#CC79A7", "fill": "#7F7F7F", "host": "#D9D9D9",
}  # fmt: skip
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
