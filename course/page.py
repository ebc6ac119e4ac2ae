"""What a page shows besides text and code: figures with a reading whose numbers are this run's, and sliders.

A slider needs no kernel: its frames are drawn beforehand, and one line of script swaps them. So it works in Jupyter, on
the website and in a saved page. Viewers that run no script, GitHub's among them, have the strip of frames below it.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from anchor_utils import plotting
from course.lesson import say

READING = "**Reading the figure.**"
WORDS = 60  # of a reading


def figure(drawn: Figure, alt: str, reading: str, **options: Any) -> None:
    """Show a figure, and below it how to read it.

    Args:
        alt: what the figure shows, for those who cannot see it.
        reading: at most WORDS words of Markdown: what this run shows, with a number; how to read it; one caveat.
        options: of :func:`anchor_utils.plotting.show`.

    Raises:
        ValueError: the reading is too long or has no number.
    """
    text = _reading(reading)
    plotting.show(drawn, alt, **options)
    say(text)


def animation(frames: Iterable[Figure], alt: str, reading: str, **options: Any) -> None:
    """Show an animation, and below it how to read it; the arguments are those of :func:`figure`.

    `options` are those of :func:`anchor_utils.plotting.animate`.
    """
    text = _reading(reading)
    plotting.animate(frames, alt, **options)
    say(text)


def slider(
    label: str,
    values: Sequence[str],
    frames: Iterable[Figure],
    alt: str,
    reading: str,
    *,
    start: int = 0,
    strip: int = 5,
    colors: int = 64,
) -> None:
    """Show frames of one size behind a slider, then some of them side by side, then how to read them.

    Args:
        label: what is moved, "epsilon" say.
        values: of the frames, as they are shown beside the slider.
        alt, reading: as in :func:`figure`.
        start: the frame that is shown first.
        strip: how many frames stand side by side below.
        colors: of a frame; few keep the file small.

    Raises:
        ValueError: frames and values are not of one number, `start` is none of them, or as in :func:`figure`.
    """
    text = _reading(reading)
    pictures = [_picture(drawn, colors) for drawn in frames]
    if len(pictures) != len(values) or not 0 <= start < len(values):
        raise ValueError(
            f"frames: {len(pictures)} for {len(values)} values, start={start}: allowed is one for each value, and one "
            "of them to start with"
        )
    display({"text/html": _slider_html(label, values, pictures, alt, start), "text/plain": alt}, raw=True)
    count = min(strip, len(pictures))
    chosen = [round(k * (len(pictures) - 1) / max(1, count - 1)) for k in range(count)]
    drawn = _strip([pictures[k] for k in chosen])
    shown = ", ".join(values[k] for k in chosen)
    kind = "image/png"
    still = f"The slider's frames at {label} {shown}, side by side. {alt}"
    display({kind: base64.b64encode(drawn).decode(), "text/plain": still}, raw=True, metadata={kind: {"alt": still}})
    say(text)


def _reading(text: str) -> str:
    words = len(text.split())
    if words > WORDS or not any(character.isdigit() for character in text):
        raise ValueError(f"reading={text!r}: allowed are at most {WORDS} words, a number of this run among them")
    return f"{READING} {text}"


def _picture(drawn: Figure, colors: int) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    plt.close(drawn)
    return _quantized(Image.open(buffer).convert("RGB"), colors)


def _quantized(picture: Image.Image, colors: int) -> bytes:
    buffer = io.BytesIO()
    picture.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(buffer, format="PNG")
    return buffer.getvalue()


def _strip(pictures: Sequence[bytes]) -> bytes:
    """Pictures side by side, together about as wide as a page."""
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    width = min(images[0].width, 1600 // len(images))
    height = round(images[0].height * width / images[0].width)
    whole = Image.new("RGB", (width * len(images), height), "white")
    for index, image in enumerate(images):
        whole.paste(image.resize((width, height), Image.Resampling.LANCZOS), (index * width, 0))
    return _quantized(whole, 256)


# Shows the frame that the slider is at and writes its value; nothing else on the page is touched.
_MOVE = (
    "const box=this.closest('.course-slider');"
    "box.querySelectorAll('img').forEach((image,k)=>{image.hidden=k!=this.value});"
    "const text=JSON.parse(box.dataset.values)[this.value];"
    "box.querySelector('output').textContent=text;this.setAttribute('aria-valuetext',text)"
)


def _slider_html(label: str, values: Sequence[str], pictures: Sequence[bytes], alt: str, start: int) -> str:
    """A range input and one image a value, all but one hidden."""
    images = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(picture).decode()}" '
        f'alt="{html.escape(f"{label} {value}: {alt}")}" style="max-width:100%"{"" if k == start else " hidden"}>'
        for k, (value, picture) in enumerate(zip(values, pictures, strict=True))
    )
    return (
        f'<div class="course-slider" data-values="{html.escape(json.dumps([*values]))}">'
        f'<label>{html.escape(label)} <input type="range" min="0" max="{len(values) - 1}" value="{start}" step="1" '
        f'aria-valuetext="{html.escape(values[start])}" style="width:min(24em,60%);vertical-align:middle" '
        # The arrow keys are the slider's: JupyterLab would take them to move between cells.
        f'onkeydown="event.stopPropagation()" oninput="{html.escape(_MOVE)}"> '
        f"<output>{html.escape(values[start])}</output></label>"
        f"<div>{images}</div></div>"
    )
