"""The page on the usage of a model: which weights matter, what modules give, what it costs."""

from lightning_weightwatch.usage.flops.report import FlopReport
from lightning_weightwatch.usage.report import UsageReport
from lightning_weightwatch.views.activations import activation_markdown
from lightning_weightwatch.views.flops import flop_markdown
from lightning_weightwatch.views.usage import usage_markdown


def usage_page(usage: UsageReport, flops: FlopReport | None, spent: str = "") -> str:
    """Markdown with a heading for each part that there is.

    Args:
        usage: The usage.
        flops: What a batch costs, if known.
        spent: What the fit cost, in a sentence.
    """
    parts = ["## Which weights matter", usage_markdown(usage)]
    if usage.activations:
        parts += ["## What modules give", activation_markdown(usage.activations)]
    if spent or flops is not None:
        parts.append("## What it costs")
    parts += [spent] if spent else []
    if flops is not None:
        parts += ["One batch of training, by module:", flop_markdown(flops)]
    return "\n\n".join(parts)
