"""A range coder: symbols with integer frequencies to bytes, within a few bits of the entropy.

Integers only, so that a file written on one machine is read on any other. Adaptive models keep
their counts beside the coder and are updated alike by writer and reader, with the estimator of
Krichevsky and Trofimov (1981), p(s) = (n_s + 1/2) / (n + k/2) for ``k`` symbols: no table of
frequencies has to be stored, and the cost of learning is about (k - 1)/2 log2 n bits.
"""

import math

from probcomp.errors import InputError

_BITS = 48
_TOP = 1 << _BITS
_LOW = _TOP - 1
_RENEW = 1 << (_BITS - 8)
_SHIFT = _BITS - 8
_REST = _RENEW - 1
LARGEST_TOTAL = 1 << 24
"""Largest sum of frequencies; the range keeps at least 16 bits above it, so that rounding costs
less than 2e-5 of a code length."""
UNWRITTEN = 16
"""Zero bytes at the end of a stream that need not be written. A reader goes no further beyond the
end, so a stream cannot be read for ever."""


class RangeEncoder:
    """Writes symbols given by their share of the cumulative frequencies (Martin 1979).

    Attributes:
        part: What is being written; the caller sets it.
        spent: Bits for each part, as -log2 of the probabilities used.
    """

    def __init__(self) -> None:
        self._low, self._range = 0, _LOW
        self._out = bytearray()
        self.part = ""
        self.spent: dict[str, float] = {}

    def put(self, start: int, frequency: int, total: int) -> None:
        """Write the symbol that owns ``[start, start + frequency)`` of ``total``."""
        step = self._range // total
        self._low += step * start
        self._range = step * frequency
        while self._range < _RENEW:
            self._shift()
        self.spent[self.part] = self.spent.get(self.part, 0.0) + math.log2(total / frequency)

    def finish(self) -> bytes:
        """A short string of bytes that decodes to what was written; at most `UNWRITTEN` zeros that
        follow it are left out."""
        keep = _BITS
        value = self._low
        while keep > 0:  # round up to as many zero bits as still fall inside the range
            unit = 1 << keep
            value = -(-self._low // unit) * unit
            if value < self._low + self._range:
                break
            keep -= 1
        else:
            value = self._low
        self._low = value
        for _ in range(_BITS // 8):
            self._shift()
        kept = len(self._out.rstrip(b"\0"))
        return bytes(self._out[: max(kept, len(self._out) - UNWRITTEN)])

    def _shift(self) -> None:
        if self._low >= _TOP:
            self._low -= _TOP
            place = len(self._out) - 1
            while self._out[place] == 255:  # the carry runs through bytes that are full
                self._out[place] = 0
                place -= 1
            self._out[place] += 1
        self._out.append(self._low >> _SHIFT)
        self._low = (self._low & _REST) << 8
        self._range <<= 8


class RangeDecoder:
    """Reads what `RangeEncoder` wrote, symbol by symbol."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, _BITS // 8
        self._value = int.from_bytes(data[: self._place].ljust(self._place, b"\0"), "big")
        self._range = _LOW
        self._step = 0

    def peek(self, total: int) -> int:
        """The cumulative frequency, below ``total``, that the next symbol covers.

        Raises:
            InputError: No encoder writes such bytes.
        """
        self._step = self._range // total
        found = self._value // self._step
        if found >= total:
            raise InputError("the coded stream does not decode")
        return found

    def take(self, start: int, frequency: int) -> None:
        """Consume the symbol found from `peek`.

        Raises:
            InputError: The stream has ended.
        """
        self._value -= self._step * start
        self._range = self._step * frequency
        while self._range < _RENEW:
            data, place = self._data, self._place
            if place >= len(data) + UNWRITTEN:
                raise InputError("the coded stream ends early")
            self._value = (self._value << 8) | (data[place] if place < len(data) else 0)
            self._place = place + 1
            self._range <<= 8


class BitModel:
    """Adaptive probabilities of bits in a number of contexts."""

    def __init__(self, contexts: int) -> None:
        # Doubled counts plus one: frequencies of zero and one.
        self.counts = [[1, 1] for _ in range(contexts)]

    def put(self, coder: RangeEncoder, context: int, bit: int) -> None:
        """Write a bit and learn it."""
        counts = self.counts[context]
        zeros, ones = counts
        if bit:
            coder.put(zeros, ones, zeros + ones)
        else:
            coder.put(0, zeros, zeros + ones)
        counts[bit] += 2

    def get(self, coder: RangeDecoder, context: int) -> int:
        """Read a bit and learn it."""
        counts = self.counts[context]
        zeros, ones = counts
        if coder.peek(zeros + ones) >= zeros:
            coder.take(zeros, ones)
            counts[1] = ones + 2
            return 1
        coder.take(0, zeros)
        counts[0] = zeros + 2
        return 0


class SymbolModel:
    """Adaptive probabilities of ``size`` symbols."""

    def __init__(self, size: int) -> None:
        self.counts = [1] * size
        self.total = size

    def put(self, coder: RangeEncoder, symbol: int) -> None:
        """Write a symbol and learn it."""
        coder.put(sum(self.counts[:symbol]), self.counts[symbol], self.total)
        self._learn(symbol)

    def get(self, coder: RangeDecoder) -> int:
        """Read a symbol and learn it."""
        wanted = coder.peek(self.total)
        start = 0
        for symbol, count in enumerate(self.counts):
            if wanted < start + count:
                coder.take(start, count)
                self._learn(symbol)
                return symbol
            start += count
        raise InputError("the coded stream does not decode")  # peek is below the total

    def _learn(self, symbol: int) -> None:
        self.counts[symbol] += 2
        self.total += 2
        if self.total >= LARGEST_TOTAL:
            self.counts = [(count >> 1) | 1 for count in self.counts]
            self.total = sum(self.counts)


def put_number(coder: RangeEncoder, value: int) -> None:
    """Write a number >= 0 in the code of Elias (1975), 2 floor(log2(value + 1)) + 1 bits."""
    length = (value + 1).bit_length()
    for _ in range(length - 1):
        coder.put(1, 1, 2)
    coder.put(0, 1, 2)
    for place in range(length - 2, -1, -1):
        coder.put((value + 1) >> place & 1, 1, 2)


def get_number(coder: RangeDecoder) -> int:
    """Read what `put_number` wrote."""
    length = 1
    while _flip(coder):
        length += 1
        if length > 65:
            raise InputError("the coded stream does not decode: a number of more than 64 bits")
    value = 1
    for _ in range(length - 1):
        value = value << 1 | _flip(coder)
    return value - 1


def _flip(coder: RangeDecoder) -> int:
    bit = coder.peek(2)
    coder.take(bit, 1)
    return bit
