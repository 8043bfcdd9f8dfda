"""The published decoders again, one row at a time in plain loops: references for trace tests.

Each returns one entry per forward: the sorted positions it committed, or a tuple that begins with
them where the method does more. ``p`` is called on a canvas (a list of ids) and returns the
probabilities [n, V].
"""

import math

import torch

from tests.decoding.worlds import EOS, MASK


def _best(p, places):
    return min(places, key=lambda i: (-float(p[i].max()), i))


def _masked(x, begin=0, end=None):
    return [i for i in range(begin, len(x) if end is None else end) if x[i] == MASK]


def _fill(x, p, chosen):
    for i in chosen:
        x[i] = int(p[i].argmax())


def quota(p_of, n, block, steps):
    x, trace = [MASK] * n, []
    for begin in range(0, n, block):
        end = min(begin + block, n)
        masks = len(_masked(x, begin, end))
        for step in range(min(steps, masks)):
            count = masks // steps + (step < masks % steps)
            p = p_of(x)
            ranked = sorted(_masked(x, begin, end), key=lambda i: (-float(p[i].max()), i))
            chosen = sorted(ranked[:count])
            _fill(x, p, chosen)
            trace.append(chosen)
    return trace, x


def threshold(p_of, n, block, tau, blocks=None):
    x, trace, begin = [MASK] * n, [], 0
    while begin < n:
        end = min(begin + block, n) if blocks is None else None
        while end is None or _masked(x, begin, end):
            p = p_of(x)
            if end is None:
                end = blocks(p, begin)
            places = _masked(x, begin, end)
            chosen = [i for i in places if float(p[i].max()) > tau] or [_best(p, places)]
            _fill(x, p, chosen)
            trace.append(chosen)
        begin = end
    return trace, x


def adablock(p_of, n, default, tau, delimiter, tau_d):
    def block_end(p, begin):
        window = range(begin, min(begin + int(0.25 * n), n))
        marks = [i for i in window if int(p[i].argmax()) == delimiter]
        if marks:
            best = _best(p, marks)
            if float(p[best].max()) >= tau_d:
                return best + 1
        return min(begin + default, n)

    return threshold(p_of, n, default, tau, block_end)


def factor(p_of, n, block, f):
    x, trace = [MASK] * n, []
    for begin in range(0, n, block):
        end = min(begin + block, n)
        while places := _masked(x, begin, end):
            p = p_of(x)
            ranked = sorted(places, key=lambda i: (-float(p[i].max()), i))
            count = 1
            for k in range(1, len(ranked) + 1):
                if (k + 1) * (1 - float(p[ranked[k - 1]].max())) < f:
                    count = k
            chosen = sorted(ranked[:count])
            _fill(x, p, chosen)
            trace.append(chosen)
    return trace, x


def entropy_bounded(p_of, n, gamma):
    x, trace = [MASK] * n, []
    while places := _masked(x):
        p = p_of(x)
        h = {i: float(-(p[i] * p[i].clamp(min=1e-300).log()).sum()) for i in places}
        ranked = sorted(places, key=lambda i: (h[i], i))
        chosen, total = [], 0.0
        for i in ranked:
            if total > gamma:
                break
            chosen.append(i)
            total += h[i]
        _fill(x, p, sorted(chosen))
        trace.append(sorted(chosen))
    return trace, x


def klass(p_of, n, block, tau, epsilon, history, steps):
    x, trace = [MASK] * n, []
    before, calm = None, [0] * n
    for begin in range(0, n, block):
        end = min(begin + block, n)
        masks, step = len(_masked(x, begin, end)), 0
        while places := _masked(x, begin, end):
            p = p_of(x)
            for i in range(n):
                kl = math.inf
                if before is not None:
                    on = p[i] > 0
                    kl = float((p[i][on] * (p[i][on] / before[i][on]).log()).sum())
                calm[i] = calm[i] + 1 if kl < epsilon else 0
            before = p
            chosen = [i for i in places if float(p[i].max()) > tau and calm[i] >= history]
            if not chosen:
                count = max(1, masks // steps + (step < masks % steps))
                ranked = sorted(places, key=lambda i: (-float(p[i].max()), i))
                chosen = sorted(ranked[:count])
            _fill(x, p, chosen)
            trace.append(chosen)
            step += 1
    return trace, x


def wino(p_of, n, block, tau, tau_back, share, low, high):
    x, trace = [MASK] * n, []
    for begin in range(0, n, block):
        end, previous = min(begin + block, n), (trace and len(trace[-1][0])) or 0
        while places := _masked(x, begin, end):
            p = p_of(x)
            shadow = {}
            for i in range(begin, end):
                if x[i] != MASK:
                    hidden = list(x)
                    hidden[i] = MASK
                    shadow[i] = float(p_of(hidden)[i][x[i]])
            chosen = [i for i in places if float(p[i].max()) > tau]
            cap = min(max(int(share * len(places)), low), high)
            if len(chosen) > cap:
                chosen = sorted(sorted(chosen, key=lambda i: (-float(p[i].max()), i))[:cap])
            chosen = chosen or [_best(p, places)]
            back = []
            if len(chosen) > 1:
                weak = sorted((i for i in shadow if shadow[i] < tau_back), key=lambda i: shadow[i])
                back = weak[: max(previous - 1, 0)]
            _fill(x, p, chosen)
            for i in back:
                x[i] = MASK
            trace.append((chosen, sorted(back)))
            previous = len(chosen)
    return trace, x


def _eos_score(p):
    on = [i for i in range(len(p)) if int(p[i].argmax()) == EOS]
    return sum(float(p[i][EOS]) for i in on[-32:]) / 32


def daedal(p_of, initial, longest, block, tau):
    x, trace = [MASK] * initial, []
    while True:
        score = _eos_score(p_of(x))
        grow = min(8, longest - len(x)) if score < 0.5 else 0
        trace.append(([], grow))
        if grow == 0:
            break
        x += [MASK] * grow
    x += [EOS] * 16
    begin = 0
    while _masked(x):
        begin = _masked(x)[0] // block * block
        end = min(begin + block, len(x))
        while places := _masked(x, begin, end):
            p = p_of(x)
            chosen = [i for i in places if float(p[i].max()) > tau] or [_best(p, places)]
            score = _eos_score(p)
            _fill(x, p, chosen)
            left = _masked(x, begin, end)
            grow = 0
            if score < 0.9 and left and len(x) + 7 <= longest:
                worst = min(left, key=lambda i: (float(p[i].max()), i))
                if float(p[worst].max()) < 0.1:
                    x[worst : worst + 1] = [MASK] * 8
                    grow = 7
            trace.append((chosen, grow))
    return trace, x


def rho_eos(p_of, initial, longest, block, tau, edits):
    x, trace, made = [MASK] * initial, [], 0
    while places := _masked(x):
        p = p_of(x)
        rho = sum(int(p[i].argmax()) == EOS for i in places) / len(places)
        begin = places[0] // block * block
        here = _masked(x, begin, min(begin + block, len(x)))
        chosen = [i for i in here if float(p[i].max()) > tau] or [_best(p, here)]
        free = 0
        while free < len(x) and x[len(x) - 1 - free] == MASK:
            free += 1
        change = 0
        if made < edits and (rho < 0.4 or rho > 0.6):
            gap = 0.4 - rho if rho < 0.4 else rho - 0.6
            amount = 8 * min(8, int(2 ** (math.ceil(gap / 0.1 - 1e-6) - 1)))
            change = min(amount, longest - len(x)) if rho < 0.4 else -min(amount, max(free - 1, 0))
        made += change != 0
        _fill(x, p, chosen)
        x = x + [MASK] * change if change >= 0 else x[:change]
        trace.append((chosen, change))
    return trace, x


def probabilities(adapter, context):
    """p_of for a one-token context."""

    def p_of(x):
        ids = torch.tensor([[context, *x]])
        logits = adapter.function(ids, torch.ones_like(ids))[0, 1:]
        return logits.softmax(-1)

    return p_of
