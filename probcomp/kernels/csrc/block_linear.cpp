// Block-sparse product y = x W^T + b on a CPU, float32.
//
// Live blocks are stored [BK][BN] (outputs innermost), so a block is BK rank-one updates of an
// [MB, BN] tile of outputs held in registers: MB broadcasts of x against BN / 16 vectors of W.
// Rows of blocks and tiles of M are independent tasks; each output is summed in one fixed order, so
// results do not depend on the number of threads.

#include <cstdint>
#include <cstring>

typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));

namespace {

struct Problem {
  const float* x;        // [M, ldx]
  const float* val;      // [nnz, BK, BN]
  const int32_t* crow;   // [R + 1]
  const int32_t* col;    // [nnz]
  const int32_t* order;  // [R]
  const float* bias;     // [N] or null
  float* y;              // [M, N]
  int64_t M, N, ldx, R, BN, BK;
  int relu;
};

// One tile: rows m0 .. m0 + MB, outputs n0 .. n0 + 16 NV of block row r, at offset `inner` in it.
#define DEFINE_TILE(ISA, TARGET)                                                                  \
  template <int NV, int MB>                                                                       \
  TARGET static void tile_##ISA(const Problem& p, int64_t r, int64_t inner, int64_t m0) {         \
    vec acc[MB][NV];                                                                              \
    for (int m = 0; m < MB; ++m)                                                                  \
      for (int v = 0; v < NV; ++v) acc[m][v] = vec{};                                             \
    for (int32_t e = p.crow[r]; e < p.crow[r + 1]; ++e) {                                         \
      const float* w = p.val + (int64_t)e * p.BK * p.BN + inner;                                  \
      const float* x = p.x + m0 * p.ldx + (int64_t)p.col[e] * p.BK;                               \
      for (int64_t k = 0; k < p.BK; ++k, w += p.BN) {                                             \
        vec b[NV];                                                                                \
        _Pragma("GCC unroll 8") for (int v = 0; v < NV; ++v) b[v] = *(const vec*)(w + 16 * v);    \
        _Pragma("GCC unroll 16") for (int m = 0; m < MB; ++m) {                                   \
          const float a = x[m * p.ldx + k];                                                       \
          _Pragma("GCC unroll 8") for (int v = 0; v < NV; ++v) acc[m][v] += b[v] * a;             \
        }                                                                                         \
      }                                                                                           \
    }                                                                                             \
    const int64_t n0 = r * p.BN + inner;                                                          \
    int64_t width = p.N - n0 < 16 * NV ? p.N - n0 : 16 * NV;                                      \
    for (int m = 0; m < MB; ++m) {                                                                \
      float out[16 * NV];                                                                         \
      std::memcpy(out, acc[m], sizeof(out));                                                      \
      float* y = p.y + (m0 + m) * p.N + n0;                                                       \
      for (int64_t j = 0; j < width; ++j) {                                                       \
        float value = out[j] + (p.bias ? p.bias[n0 + j] : 0.0f);                                  \
        y[j] = p.relu && value < 0.0f ? 0.0f : value;                                             \
      }                                                                                           \
    }                                                                                             \
  }                                                                                               \
  template <int NV, int MB>                                                                       \
  TARGET static void rest_##ISA(const Problem& p, int64_t r, int64_t inner, int64_t m0,           \
                                int64_t left) {                                                   \
    if (left >= MB) {                                                                             \
      tile_##ISA<NV, MB>(p, r, inner, m0);                                                        \
    } else if constexpr (MB > 1) {                                                                \
      rest_##ISA<NV, MB - 1>(p, r, inner, m0, left);                                              \
    }                                                                                             \
  }                                                                                               \
  template <int NV, int MB>                                                                       \
  TARGET static void strip_##ISA(const Problem& p, int64_t r, int64_t inner, int64_t m0,          \
                                 int64_t m1) {                                                    \
    for (; m0 < m1; m0 += MB) rest_##ISA<NV, MB>(p, r, inner, m0, m1 - m0);                       \
  }

#if defined(__x86_64__)
DEFINE_TILE(avx512, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))))
DEFINE_TILE(avx2, __attribute__((target("avx2,fma"))))
#endif
DEFINE_TILE(plain, )

int level() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

void strip(const Problem& p, int isa, int64_t r, int64_t m0, int64_t m1) {
  for (int64_t inner = 0; inner < p.BN && r * p.BN + inner < p.N;) {
    const int64_t left = p.BN - inner;
#if defined(__x86_64__)
    if (isa == 2) {
      if (left >= 64) { strip_avx512<4, 6>(p, r, inner, m0, m1); inner += 64; continue; }
      if (left >= 32) { strip_avx512<2, 12>(p, r, inner, m0, m1); inner += 32; continue; }
      strip_avx512<1, 12>(p, r, inner, m0, m1);
      inner += 16;
      continue;
    }
    if (isa == 1) {
      strip_avx2<1, 6>(p, r, inner, m0, m1);
      inner += 16;
      continue;
    }
#endif
    (void)left;
    strip_plain<1, 2>(p, r, inner, m0, m1);
    inner += 16;
  }
}

}  // namespace

extern "C" int probcomp_isa() { return level(); }

// Returns 0, or 1 when BN is not a multiple of 16. `isa` below 0 picks the best of this machine.
extern "C" int probcomp_block_linear(const float* x, const float* val, const int32_t* crow,
                                     const int32_t* col, const int32_t* order, const float* bias,
                                     float* y, int64_t M, int64_t N, int64_t ldx, int64_t R,
                                     int64_t BN, int64_t BK, int relu, int threads, int isa) {
  if (BN % 16 != 0) return 1;
  const Problem p{x, val, crow, col, order, bias, y, M, N, ldx, R, BN, BK, relu};
  const int best = level();
  if (isa < 0 || isa > best) isa = best;
  const int64_t step = 48;  // rows of one task: a multiple of every tile height
  const int64_t strips = (M + step - 1) / step;
#pragma omp parallel for schedule(dynamic) num_threads(threads) collapse(2)
  for (int64_t i = 0; i < R; ++i)
    for (int64_t s = 0; s < strips; ++s)
      strip(p, isa, order[i], s * step, s * step + step < M ? s * step + step : M);
  return 0;
}
