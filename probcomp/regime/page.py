"""One page about one piece of advice: words, numbers, pictures; a file that needs no other."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probcomp.regime.words import REGIMES, details, headline
from probcomp.storage import replacing, write_text

if TYPE_CHECKING:
    from probcomp.regime.advice import Advice

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1c2430;max-width:46rem;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}"
    "th{text-align:left;padding-right:1.5rem;font-weight:600;vertical-align:top}"
    "img{max-width:100%}p.note{color:#5b6472;font-size:.9rem}.warn{color:#a33}"
)
NOTES = {
    "Phase diagram": "Colours mix the probabilities of the regimes. Lines are posterior medians of "
    "the boundaries, bands hold 90 %. Retrained networks are "
    + "; ".join(f"{name}: {what}" for name, what in REGIMES.items())
    + ".",
    "What to do, along the knob": "Probability that raising, lowering or keeping the temperature "
    "is best, were the knob set there.",
}


def write_page(said: "Advice", path: Path | str) -> None:
    """Write the page of one piece of advice."""
    from probcomp.regime.plots import pictures

    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
        for name, text in details(said).items()
    )
    warning = (
        ""
        if said.converged
        else f"<p class='warn'>{html.escape(said.convergence)}. The numbers below are not to be "
        "relied on.</p>"
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{html.escape(headline(said))}"
        f"</title><style>{STYLE}</style>",
        f"<h1>{html.escape(headline(said))}</h1>",
        f"{warning}<table>{rows}</table>",
    ]
    parts += [f"<p class='note'>Note: {html.escape(note)}</p>" for note in said.notes]
    for title, figure in pictures(said).items():
        parts.append(
            f"<h2>{html.escape(title)}</h2><img alt='{html.escape(title)}' "
            f"src='data:image/png;base64,{base64.b64encode(_png(figure)).decode()}'>"
        )
        if title in NOTES:
            parts.append(f"<p class='note'>{html.escape(NOTES[title])}</p>")
    parts.append("<p class='note'>Regimes after Zhou, Yang, Chang and Mahoney (2023).</p></html>")
    write_text(path, "\n".join(parts))


def save_pictures(said: "Advice", folder: Path | str) -> list[Path]:
    """Write every picture as PNG; returns the files."""
    from probcomp.regime.plots import pictures

    out = []
    for title, figure in pictures(said).items():
        name = title.lower().replace(",", "").replace(" ", "-")
        path = Path(folder) / f"{name}.png"
        with replacing(path) as temporary:
            temporary.write_bytes(_png(figure))
        out.append(path)
    return out


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
