"""Images inside HTML: small PNG files written into the page itself."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image
from torch import Tensor

__all__ = ["data_uri", "image_tag"]


def data_uri(image: Tensor) -> str:
    """A ``data:`` address of an image, as PNG at its own size.

    Args:
        image: (C, H, W), floats in [0, 1] or uint8; one channel is grey, otherwise the first three are colours.

    >>> import torch
    >>> data_uri(torch.zeros(1, 2, 2))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    pixels = (image * 255).round().byte() if image.is_floating_point() else image
    array = pixels[0].numpy() if len(pixels) < 3 else pixels[:3].permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_tag(image: Tensor, text: str) -> str:
    """An ``<img>`` with that text for those who do not see it; pixels stay sharp when it is enlarged.

    >>> import torch
    >>> 'alt="&lt;cat&gt;"' in image_tag(torch.zeros(1, 2, 2), "<cat>")
    True
    """
    words = html.escape(text)
    return (
        f'<img src="{data_uri(image)}" alt="{words}" title="{words}" width="56" height="56" '
        'style="image-rendering:pixelated;display:block;object-fit:contain">'
    )
