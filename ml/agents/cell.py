"""The LSTM cell in one pass over memory, compiled: what the gates do to the state, forwards and backwards.

torch has no cell that clears its memory inside a sequence, and a dozen small operations a step cost more than the matrix
product between them. Single precision on a processor only; ml.agents.lstm has the same in torch's own operations for
everything else, and tests hold the two against each other. exp is a Taylor polynomial of the remainder of a power of two,
wrong by 2e-7 of its value at most.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_ONE, _TWO, _HALF = np.float32(1.0), np.float32(2.0), np.float32(0.5)
_C3, _C4, _C5, _C6, _C7 = (np.float32(1.0 / n) for n in (6.0, 24.0, 120.0, 720.0, 5040.0))
_MOST = np.float32(60.0)
_FAST = {"contract", "arcp", "nsz"}
"""What the compiler may do with single operations: fuse a product and a sum; never reorder a sum."""


@njit
def _exp(x):  # type: ignore[no-untyped-def]
    x = min(max(x, -_MOST), _MOST)
    n = np.floor(x * _LOG2E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = _ONE + r * (_ONE + r * (_HALF + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return _ONE / (_ONE + _exp(-x))


@njit
def _tanh(x):  # type: ignore[no-untyped-def]
    return _TWO / (_ONE + _exp(-_TWO * x)) - _ONE


@njit
def _activate(z, size):  # type: ignore[no-untyped-def]
    """Gates of one lane (4H,), in place. Loops over one array each: the compiler makes vectors of those."""
    for k in range(3 * size):
        z[k] = _sigmoid(z[k])
    g = z[3 * size :]
    for k in range(size):
        g[k] = _tanh(g[k])


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def enter(encoded, begins, joined, c):  # type: ignore[no-untyped-def]
    """tanh of encoded (B, H) into the left half of joined (B, 2H); memory (right half, c) is cleared where an episode begins."""
    size = c.shape[1]
    for b in range(len(c)):
        x, to = encoded[b], joined[b]
        for k in range(size):
            to[k] = _tanh(x[k])
        if begins[b]:
            to[size:] = np.float32(0.0)
            c[b] = np.float32(0.0)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def forward(gates, before_c, c, tanh_c, h):  # type: ignore[no-untyped-def]
    """One step. gates (B, 4H): inputs of input, forget, output and cell become their activations. before_c, c (B, H): the state
    before and after; they may be one array. tanh_c, h (B, H): written."""
    size = c.shape[1]
    for b in range(len(c)):
        z, old, new, t, out = gates[b], before_c[b], c[b], tanh_c[b], h[b]
        _activate(z, size)
        for k in range(size):
            new[k] = z[size + k] * old[k] + z[k] * z[3 * size + k]
        for k in range(size):
            t[k] = _tanh(new[k])
        for k in range(size):
            out[k] = z[2 * size + k] * t[k]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def backward(gates, before_c, tanh_c, keep, d_h, d_c, d_gates):  # type: ignore[no-untyped-def]
    """d_gates (B, 4H) of one step from the gradients of its output, d_h (B, H), and of the state after it, d_c (B, H), which
    becomes that of the state before it. gates (B, 4H): activations. keep (B, 1): 0 where the memory was cleared."""
    size = d_c.shape[1]
    for b in range(len(d_c)):
        a, old, t, to, dh, dc = gates[b], before_c[b], tanh_c[b], d_gates[b], d_h[b], d_c[b]
        for k in range(size):
            dc[k] += dh[k] * a[2 * size + k] * (_ONE - t[k] * t[k])
        for k in range(size):
            to[k] = dc[k] * a[3 * size + k]
        for k in range(size):
            to[size + k] = dc[k] * old[k]
        for k in range(size):
            to[2 * size + k] = dh[k] * t[k]
        for k in range(3 * size):
            to[k] *= a[k] * (_ONE - a[k])
        for k in range(size):
            g = a[3 * size + k]
            to[3 * size + k] = dc[k] * a[k] * (_ONE - g * g)
        kept = keep[b, 0]
        for k in range(size):
            dc[k] *= a[size + k] * kept


@njit(cache=True)
def choose(head, mask, noise, logits, actions):  # type: ignore[no-untyped-def]
    """head (B, A + 1): logits, and the value last. logits (B, A): those allowed by mask bool (B, A), -1e9 else. actions int64
    (B,): the largest of logits + noise (B, A), the first of equals."""
    for b in range(len(actions)):
        best = np.float32(-np.inf)
        for a in range(mask.shape[1]):
            x = head[b, a] if mask[b, a] else np.float32(-1e9)
            logits[b, a] = x
            if x + noise[b, a] > best:
                best, actions[b] = x + noise[b, a], a
