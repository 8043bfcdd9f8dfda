// Activations of 16 floats at a time. They are inlined into functions of any instruction set.

#pragma once

#include <cstdint>

typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(64), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

enum Activation { NONE = 0, RELU = 1, GELU = 2, GELU_TANH = 3, SILU = 4 };

// e^x to 2 ulp: x = n ln 2 + r with |r| < 0.35, and a polynomial of degree 6 in r.
INLINE vec exp16(vec x) {
  const vec low = vec{} - 87.3f, high = vec{} + 88.3f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const vec shift = vec{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const vec n = (x * 1.44269504f + shift) - shift;
  const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  const ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
  return p * (vec)power;
}

// The error function to 1.5e-7: Abramowitz and Stegun, 7.1.26, as PyTorch computes it.
INLINE vec erf16(vec x) {
  const vec size = x < 0.0f ? -x : x;
  const vec t = 1.0f / (1.0f + size * 0.3275911f);
  vec p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const vec y = 1.0f - p * t * exp16(-size * size);
  return x < 0.0f ? -y : y;
}

INLINE vec activate(vec x, int code) {
  switch (code) {
    case RELU:
      return x < 0.0f ? vec{} : x;  // keeps a NaN
    case GELU:
      return x * 0.5f * (1.0f + erf16(x * 0.70710678f));
    case GELU_TANH: {
      const vec u = (x + x * x * x * 0.044715f) * 1.59576912f;  // 2 sqrt(2 / pi)
      return x / (1.0f + exp16(-u));                            // (1 + tanh(u / 2)) / 2
    }
    case SILU:
      return x / (1.0f + exp16(-x));
    default:
      return x;
  }
}
