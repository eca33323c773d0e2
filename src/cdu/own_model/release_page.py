"""``release.html``: what a release promises, for readers who do not know the field; without network or script."""

import math
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from cdu.own_model.release_certificate import BEYOND_THE_WEIGHTS, EARLIER, ReleaseCertificate

#: What a certificate says it does not cover, for readers who do not know the field.
PLAIN = {
    "models, checkpoints or outputs published before the request": "Earlier models. Whoever has a model, a checkpoint "
    "or outputs from before this deletion may find the deleted rows in them. Ask for them back, or delete them.",
    "adaptive requests: requests chosen after seeing a release": "Requests that somebody chose after seeing an earlier "
    "release in order to learn more.",
    "a noise seed that the adversary knows": "The secret of the noise. Whoever knows which random numbers were added "
    "can subtract them. The program draws them from the operating system and does not keep them.",
    "BatchNorm's running statistics": "Averages that some networks keep beside their weights (the running statistics "
    "of BatchNorm). Where the model has such, they must be taken anew from the rows that are left.",
    "anything that was tuned on the forget set": "Choices that were made by looking at the deleted rows, such as "
    "learning rates, thresholds or which features to use.",
    BEYOND_THE_WEIGHTS: "Copies elsewhere: backups, logs, caches, exported data, and outputs that the model has given "
    "already. They must be deleted on their own.",
}


def page(certificate: ReleaseCertificate) -> str:
    """The page of a release as one HTML document.

    Args:
        certificate: What is known of the release; neither its hash nor the page's is used.
    """
    return _template().render(
        c=certificate,
        g=certificate.guarantee,
        together=certificate.together,
        budget=certificate.budget,
        not_covered=[_plain(text) for text in certificate.not_covered],
    )


def _plain(text: str) -> str:
    if text.startswith(EARLIER):
        return (
            f"{text[0].upper()}{text[1:]}. Whoever has one of those releases may find the rows that it was to delete."
        )
    return PLAIN.get(text, text)


def percent(share: float) -> str:
    """A probability in percent, rounded up to a tenth: no promise sounds better than it is."""
    # The product of a rounded number may be a last digit too large.
    tenths = math.ceil(share * 1000 * (1 - 1e-12))
    return f"{min(tenths, 1000) / 10:g}\N{NO-BREAK SPACE}%"


def number(value: float) -> str:
    """A number with four digits, rounded up in the last."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.4g}"


def odds(epsilon: float) -> str:
    """e^ε in words: by which factor odds may change."""
    if epsilon > 700:
        return "more than 10^300"
    return number(math.exp(epsilon)) if epsilon < 10 else f"{math.exp(epsilon):.2g}"


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, number=number, odds=odds)
    return environment.from_string(files("cdu.own_model").joinpath("release.html.j2").read_text(encoding="utf-8"))
