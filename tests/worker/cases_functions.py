"""Cases of functions of one number or two, of tests of nearness, and of activations."""

from __future__ import annotations

import torch
from tests.worker.operation_inputs import MASK, ODD, POSITIVE, SORTED, VECTOR, WHOLE, Case, X, Y, case
from torch.nn import functional as F  # noqa: N812

UNIT = X.tanh() * 0.9
"""Numbers between -1 and 1."""

_ANY = "asinh atan cosh deg2rad erfc exp2 frac i0 rad2deg sinc sinh tan trunc signbit isposinf isneginf"
_UNIT = "acos asin atanh erfinv"
_POSITIVE = "digamma lgamma log10"
_PAIRS = "atan2 copysign fmax fmin fmod hypot logaddexp logaddexp2"
_ACTIVATIONS = "celu elu hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 selu softsign tanhshrink"
BELOW = X.clamp(max=0)
ABOVE = X.clamp(min=0)

FUNCTIONS: dict[str, list[Case]] = {
    **{name: [case(X, expected=getattr(torch, name)(X))] for name in _ANY.split()},
    **{name: [case(UNIT, expected=getattr(torch, name)(UNIT))] for name in _UNIT.split()},
    **{name: [case(POSITIVE, expected=getattr(torch, name)(POSITIVE))] for name in _POSITIVE.split()},
    **{
        name: [
            case(X, Y, expected=getattr(torch, name)(X, Y)),
            case(X, 2.0, expected=getattr(torch, name)(X, torch.tensor(2.0))),
            case(2.0, X, expected=getattr(torch, name)(torch.tensor(2.0), X)),
        ]
        for name in _PAIRS.split()
    },
    **{name: [case(X, expected=getattr(F, name)(X))] for name in _ACTIVATIONS.split()},
    "acosh": [case(POSITIVE + 1, expected=(POSITIVE + 1 + ((POSITIVE + 1) ** 2 - 1).sqrt()).log())],
    "entr": [case(POSITIVE, expected=-POSITIVE * POSITIVE.log())],
    "logit": [
        case(UNIT.abs(), expected=(UNIT.abs() / (1 - UNIT.abs())).log()),
        case(UNIT, 0.25, expected=torch.logit(UNIT.clamp(0.25, 0.75))),
    ],
    "gcd": [case(WHOLE, 6, expected=torch.gcd(WHOLE, torch.tensor(6)))],
    "lcm": [case(WHOLE, torch.tensor([2, 3, 4, 5]), expected=torch.lcm(WHOLE, torch.tensor([2, 3, 4, 5])))],
    "float_power": [case(POSITIVE, 2, expected=POSITIVE.double() ** 2), case(WHOLE, 2, expected=WHOLE.double() ** 2)],
    "heaviside": [case(WHOLE.float(), Y, expected=torch.where(WHOLE == 0, Y, (WHOLE > 0).float()))],
    "xlogy": [
        case(X, POSITIVE, expected=X * POSITIVE.log()),
        case(2, POSITIVE, expected=2 * POSITIVE.log()),
        case(0.0, SORTED, expected=SORTED * 0),
    ],
    "clamp_min": [case(X, 0.1, expected=X.clamp(min=0.1)), case(X, Y, expected=torch.maximum(X, Y))],
    "clamp_max": [case(X, 0.1, expected=X.clamp(max=0.1)), case(X, Y, expected=torch.minimum(X, Y))],
    "addcmul": [case(X, Y, X, 0.5, expected=X + 0.5 * Y * X), case(X, Y, Y, expected=X + Y * Y)],
    "addcdiv": [case(X, Y, POSITIVE, -2.0, expected=X - 2 * Y / POSITIVE)],
    "isclose": [
        case(X, X + 1e-7, expected=torch.ones_like(MASK)),
        case(ODD, ODD, equal_nan=True, expected=torch.ones(4, dtype=torch.bool)),
        case(X, X + 0.1, atol=0.2, expected=torch.ones_like(MASK)),
    ],
    "allclose": [case(X, X + 1e-7, expected=torch.tensor(True)), case(X, X + 1, expected=torch.tensor(False))],
    "equal": [
        case(X, X.clone(), expected=torch.tensor(True)),
        case(X, X + 1, expected=torch.tensor(False)),
        case(X, Y, expected=torch.tensor(False)),
    ],
    "isin": [
        case(WHOLE, torch.tensor([1, -2]), expected=(WHOLE == 1) | (WHOLE == -2)),
        case(VECTOR, SORTED, invert=True, expected=torch.tensor([True, True, False, True])),
    ],
    "glu": [case(X, expected=X[..., :2] * X[..., 2:].sigmoid()), case(X, 0, expected=X[:1] * X[1:].sigmoid())],
    "hardshrink": [case(X, 0.3, expected=X * (X.abs() > 0.3))],
    "softshrink": [case(X, 0.3, expected=X.sign() * (X.abs() - 0.3).clamp(min=0))],
    "threshold": [case(X, 0.1, -7.0, expected=torch.where(X > 0.1, X, -7.0))],
    "prelu": [
        case(X, Y[0, :3], expected=ABOVE + BELOW * Y[0, :3, None]),
        case(X, torch.tensor([0.25]), expected=ABOVE + 0.25 * BELOW),
    ],
    "softmin": [case(X, -1, expected=(-X).softmax(-1))],
    "group_norm": [
        case(X[:, :2], 1, expected=F.layer_norm(X[:, :2], [2, 4])),
        case(
            Y.view(1, 6, 2),
            3,
            Y.flatten()[:6],
            Y.flatten()[6:],
            expected=F.group_norm(Y.view(1, 6, 2), 3, Y.flatten()[:6], Y.flatten()[6:]),
        ),
    ],
    "batch_norm": [
        case(X, Y[:, 0], POSITIVE[0, :, 0], expected=(X - Y[:, :1]) / (POSITIVE[0, :, :1] + 1e-5).sqrt()),
        case(
            X,
            Y[:, 0],
            POSITIVE[0, :, 0],
            Y[:, 1],
            Y[:, 2],
            0.1,
            expected=Y[:, 2:3] + Y[:, 1:2] * (X - Y[:, :1]) / (POSITIVE[0, :, :1] + 0.1).sqrt(),
        ),
    ],
}
FUNCTIONS["hardtanh"].append(case(X, -0.2, 0.4, expected=X.clamp(-0.2, 0.4)))
FUNCTIONS["leaky_relu"].append(case(X, 0.2, expected=ABOVE + 0.2 * BELOW))
FUNCTIONS["elu"].append(case(X, 0.5, expected=ABOVE + 0.5 * BELOW.expm1()))
FUNCTIONS["fmod"].append(case(WHOLE, -3, expected=WHOLE - -3 * torch.div(WHOLE, -3, rounding_mode="trunc")))
