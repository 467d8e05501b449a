"""Seeded views of images: crops, mirror images, and stronger changes, on batches of pixels.

View v of image i is a function of the seed, v and i, whenever and wherever it is computed. So the
teacher's logits of it can be stored, and all students of a sweep see the same views.

Shapes: B images, C channels, H x W pixels.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from noisy_kd.errors import InputError, check_range

BITS = 2**32 - 1


@dataclass(frozen=True)
class Views:
    """V views of each image; view 0 is the image itself.

    Without draws, that is with ``mirror`` alone, view 1 is the mirror image, and an epoch takes
    both. Else an epoch takes one view of each image, the next epoch the next.

    Args:
        count: V; None for views without end.
        seed: of the draws.
        mirror: every other view is a mirror image.
        shift: largest shift, a share of the side; the border is reflected.
        scale: smallest side of the part that is scaled up to the whole image, a share of the side.
        rotation: largest angle in degrees.
        colour: largest relative change of brightness, contrast and saturation.
        cutout: side of a square that is painted over with the image's mean colour (DeVries & Taylor
            2017), a share of the side.

    Raises:
        InputError: for a value out of its range, or more views than there are without draws.

    Examples:
        >>> import torch
        >>> views = Views(count=30, mirror=True, shift=0.125)
        >>> pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> views(pixels, view_B=torch.tensor([1, 7]), image_B=torch.tensor([0, 1])).shape
        torch.Size([2, 3, 32, 32])
    """

    count: int | None = 1
    seed: int = 0
    mirror: bool = False
    shift: float = 0.0
    scale: float = 1.0
    rotation: float = 0.0
    colour: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.mirror, bool):
            raise InputError(f"mirror={self.mirror} of an augmentation must be true or false.")
        largest = {"shift": 1, "scale": 1, "rotation": 180, "colour": 1, "cutout": 1}
        for name, most in largest.items():
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{name}={value} of an augmentation must be a number.")
            check_range(f"the augmentation's {name}", value, least=0, most=most)
        check_range("the augmentation's scale", self.scale, above=0)
        if self.count is not None and not 1 <= self.count <= self.different:
            raise InputError(
                f"data.views={self.count}: this augmentation has {self.different} different "
                "views; data.augment=crops and strong have as many as you like."
                if self.count > 1
                else f"data.views={self.count} must be at least 1, or null for views without end."
            )

    @property
    def draws(self) -> bool:
        """Whether views are drawn, so that there are as many different ones as one likes."""
        return any((self.shift, self.scale < 1, self.rotation, self.colour, self.cutout))

    @property
    def different(self) -> float:
        """How many different views there are."""
        return torch.inf if self.draws else 1 + self.mirror

    @property
    def per_epoch(self) -> int:
        """How many views of each image an epoch takes: all, or one where they are drawn."""
        return 1 if self.draws or self.count is None else self.count

    def first(self, epoch: int) -> int:
        """Return the first view that an epoch takes."""
        view = epoch * self.per_epoch
        return view if self.count is None else view % self.count

    def decided_by(self, view: int) -> dict[str, object]:
        """Return what decides the pixels of a view: nothing for the image itself."""
        settings = {key: value for key, value in asdict(self).items() if key != "count"}
        if not self.draws:
            del settings["seed"]
        return settings if view else {}

    def __call__(self, pixels_BCHW: Tensor, view_B: Tensor, image_B: Tensor) -> Tensor:
        """Return one view of each image, uint8 [B, C, H, W]; ``image_B`` are the images' ids."""
        if not self.draws and not self.mirror:
            return pixels_BCHW
        is_first = (view_B == 0).view(-1, 1, 1, 1)
        mirrored_B = view_B % 2 == 1
        if not self.draws:
            return torch.where(mirrored_B.view(-1, 1, 1, 1), pixels_BCHW.flip(-1), pixels_BCHW)
        if self.mirror:
            mirrored_B ^= uniform(self.seed, torch.zeros_like(view_B), image_B, 1)[:, 0] < 0.5
        u_BK = uniform(self.seed, view_B, image_B, 9)
        blurs = self.scale < 1 or self.rotation > 0
        move = self._warped if blurs else self._shifted
        x_BCHW = move(pixels_BCHW, u_BK, mirrored_B & self.mirror)
        if blurs or self.colour or self.cutout:
            x_BCHW = self._recoloured(x_BCHW.float(), u_BK[:, 4:7])
            x_BCHW = self._cut_out(x_BCHW, u_BK[:, 7:9]).round().clamp_(0, 255).to(torch.uint8)
        return torch.where(is_first, pixels_BCHW, x_BCHW)

    def _shifted(self, pixels_BCHW: Tensor, u_BK: Tensor, mirrored_B: Tensor) -> Tensor:
        """Mirror, then shift by whole pixels: nothing is blurred."""
        _, channels, height, width = pixels_BCHW.shape
        at_HW = [torch.arange(size, device=u_BK.device) for size in (height, width)]
        column_BW = torch.where(mirrored_B.unsqueeze(1), at_HW[1].flip(0), at_HW[1])
        across, down = (
            (self.shift * size * (2 * u_BK[:, k : k + 1] - 1)).round().long()
            for k, size in ((2, width), (3, height))
        )
        row_BH, column_BW = (
            _reflected(at_HW[0] + down, height),
            _reflected(column_BW + across, width),
        )
        place_BHW = (row_BH * width).unsqueeze(2) + column_BW.unsqueeze(1)
        places = place_BHW.flatten(1).unsqueeze(1).expand(-1, channels, -1)
        return pixels_BCHW.flatten(2).gather(2, places).view_as(pixels_BCHW)

    def _warped(self, pixels_BCHW: Tensor, u_BK: Tensor, mirrored_B: Tensor) -> Tensor:
        """Mirror, turn, scale and shift by one bilinear sampling; float32."""
        height, width = pixels_BCHW.shape[-2:]
        side = 1 - (1 - self.scale) * u_BK[:, 0]
        angle = torch.deg2rad(self.rotation * (2 * u_BK[:, 1] - 1))
        room = (1 - side + 2 * self.shift).unsqueeze(1)  # coordinates run from -1 to 1
        offset = room * (2 * u_BK[:, 2:4] - 1)
        flip = 1 - 2 * mirrored_B.float()
        cosine, sine = side * angle.cos(), side * angle.sin()
        rows = [cosine * flip, -sine * (height / width), offset[:, 0]]
        rows += [sine * flip * (width / height), cosine, offset[:, 1]]
        theta = torch.stack(rows, dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(pixels_BCHW.shape), align_corners=False)
        x_BCHW = pixels_BCHW.float()
        return F.grid_sample(x_BCHW, grid, padding_mode="reflection", align_corners=False)

    def _recoloured(self, x_BCHW: Tensor, u_B3: Tensor) -> Tensor:
        if not self.colour:
            return x_BCHW
        factors = (1 + self.colour * (2 * u_B3 - 1)).view(-1, 3, 1, 1, 1)
        x_BCHW = x_BCHW * factors[:, 0]
        mean = x_BCHW.mean(dim=(1, 2, 3), keepdim=True)
        x_BCHW = mean + factors[:, 1] * (x_BCHW - mean)
        grey = x_BCHW.mean(dim=1, keepdim=True)
        return grey + factors[:, 2] * (x_BCHW - grey)

    def _cut_out(self, x_BCHW: Tensor, u_B2: Tensor) -> Tensor:
        if not self.cutout:
            return x_BCHW
        inside = torch.ones_like(x_BCHW[:, :1], dtype=torch.bool)
        for dim, size in ((2, x_BCHW.shape[2]), (3, x_BCHW.shape[3])):
            at = torch.arange(size, device=x_BCHW.device)
            length = round(self.cutout * size)
            start = (u_B2[:, dim - 2 : dim - 1] * (size + 1)).floor() - length // 2
            covered = (at >= start) & (at < start + length)
            inside &= covered.view(-1, 1, size, 1) if dim == 2 else covered.view(-1, 1, 1, size)
        return torch.where(inside, x_BCHW.mean(dim=(2, 3), keepdim=True), x_BCHW)


def uniform(seed: int, view_B: Tensor, image_B: Tensor, count: int) -> Tensor:
    """Return ``count`` numbers in [0, 1) for each view and image, float32 [B, count].

    Each is a hash of its place: the same in any batch, process and device.
    """
    low, high = _mix(torch.tensor([seed & BITS, seed >> 32], device=view_B.device))  # 0 stays 0
    h_B = _mix(_mix((view_B + 1) ^ low) ^ image_B ^ high)
    h_BK = _mix(h_B.unsqueeze(1) + torch.arange(count, device=h_B.device) * 0x9E3779B9)
    return (h_BK >> 8).float() / 2**24


def _reflected(place: Tensor, size: int) -> Tensor:
    """Return places in 0 to size - 1, those outside reflected at the border."""
    place = torch.where(place < 0, -1 - place, place)
    return torch.where(place >= size, 2 * size - 1 - place, place)


def _mix(x: Tensor) -> Tensor:
    """Return a 32-bit hash of whole numbers, kept in int64 (multiply, xor and shift)."""
    x = x & BITS
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & BITS
    x = ((x ^ (x >> 15)) * 0x846CA68B) & BITS
    return x ^ (x >> 16)
