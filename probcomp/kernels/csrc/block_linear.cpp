// A chain of block-sparse products y = act(x W^T + b) on a CPU, float32: one layer, or an MLP.
//
// Live blocks are stored [BK][BN] (outputs innermost), so a block is BK rank-one updates of an
// [MB, BN] tile of outputs held in registers: MB broadcasts of x against BN / 16 vectors of W. A
// dense layer is one block as wide as its input in each block row. Each output is summed in one
// fixed order, so results depend neither on the number of threads nor on the batch.

#include <algorithm>
#include <cstring>
#include <vector>

#include "activation.h"

// As in probcomp/kernels/cpp.py.
struct Layer {
  const float* val;      // [nnz, BK, BN]
  const int32_t* crow;   // [R + 1]
  const int32_t* col;    // [nnz]
  const int32_t* order;  // [R]
  const float* bias;     // [N] or null
  int64_t N, width, R, BN, BK;  // width: inputs, in whole blocks
  int32_t act;
};

namespace {

struct Problem {
  const Layer& layer;
  const float* x;  // [M, ldx], ldx >= width
  float* y;        // [M, ldy]
  int64_t ldx, ldy;
};

// One tile: rows m0 .. m0 + MB, outputs n0 .. n0 + 16 NV of block row r, at offset `inner` in it.
#define DEFINE_TILE(ISA, TARGET)                                                                  \
  template <int NV>                                                                               \
  TARGET static void finish_##ISA(const Layer& l, const vec* acc, float* y, int64_t n0) {         \
    const int64_t width = std::min<int64_t>(l.N - n0, 16 * NV);                                   \
    alignas(64) float out[16 * NV] = {};                                                          \
    if (l.bias) std::memcpy(out, l.bias + n0, width * sizeof(float));                             \
    for (int v = 0; v < NV; ++v) {                                                                \
      const vec total = acc[v] + *(const vec*)(out + 16 * v);                                     \
      *(vec*)(out + 16 * v) = activate(total, l.act);                                             \
    }                                                                                             \
    std::memcpy(y, out, width * sizeof(float));                                                   \
  }                                                                                               \
  template <int NV, int MB>                                                                       \
  TARGET static void tile_##ISA(const Problem& p, int64_t r, int64_t inner, int64_t m0) {         \
    const Layer& l = p.layer;                                                                     \
    vec acc[MB][NV];                                                                              \
    for (int m = 0; m < MB; ++m)                                                                  \
      for (int v = 0; v < NV; ++v) acc[m][v] = vec{};                                             \
    for (int32_t e = l.crow[r]; e < l.crow[r + 1]; ++e) {                                         \
      const float* w = l.val + (int64_t)e * l.BK * l.BN + inner;                                  \
      const float* x = p.x + m0 * p.ldx + (int64_t)l.col[e] * l.BK;                               \
      for (int64_t k = 0; k < l.BK; ++k, w += l.BN) {                                             \
        vec b[NV];                                                                                \
        _Pragma("GCC unroll 8") for (int v = 0; v < NV; ++v) b[v] = *(const vec*)(w + 16 * v);    \
        _Pragma("GCC unroll 16") for (int m = 0; m < MB; ++m) {                                   \
          const float a = x[m * p.ldx + k];                                                       \
          _Pragma("GCC unroll 8") for (int v = 0; v < NV; ++v) acc[m][v] += b[v] * a;             \
        }                                                                                         \
      }                                                                                           \
    }                                                                                             \
    const int64_t n0 = r * l.BN + inner;                                                          \
    for (int m = 0; m < MB; ++m)                                                                  \
      finish_##ISA<NV>(l, acc[m], p.y + (m0 + m) * p.ldy + n0, n0);                               \
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
  /* Rows m0 .. m1 in tiles of about equal height: 16 rows are 8 + 8, not 12 + 4. */              \
  template <int NV, int MB>                                                                       \
  TARGET static void strip_##ISA(const Problem& p, int64_t r, int64_t inner, int64_t m0,          \
                                 int64_t m1) {                                                    \
    for (int64_t tiles = (m1 - m0 + MB - 1) / MB; tiles > 0; --tiles) {                           \
      const int64_t height = (m1 - m0 + tiles - 1) / tiles;                                       \
      rest_##ISA<NV, MB>(p, r, inner, m0, height);                                                \
      m0 += height;                                                                               \
    }                                                                                             \
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

// Rows m0 .. m1 of one block row.
void strip(const Problem& p, int isa, int64_t r, int64_t m0, int64_t m1) {
  const int64_t BN = p.layer.BN, N = p.layer.N;
  for (int64_t inner = 0; inner < BN && r * BN + inner < N;) {
    const int64_t left = std::min(BN - inner, (N - r * BN - inner + 15) / 16 * 16);
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

// Columns of a hidden layer: what it has, or what the next layer reads.
int64_t columns(const Layer* layers, int i) { return std::max(layers[i].N, layers[i + 1].width); }

// Room for the hidden values of `rows` rows of every layer. What a layer does not write is zero.
// Where memory is short it is not `ready`: an exception may not leave a parallel region, nor C.
struct Hidden {
  std::vector<std::vector<float>> values;
  bool ready = true;
  Hidden(const Layer* layers, int count, int64_t rows) noexcept {
    try {
      for (int i = 0; i + 1 < count; ++i) values.emplace_back(rows * columns(layers, i));
    } catch (...) {
      ready = false;
    }
  }
};

Problem problem(const Layer* layers, int count, int i, const float* x, int64_t ldx, float* y,
                Hidden& hidden) {
  const bool first = i == 0, last = i + 1 == count;
  return Problem{layers[i], first ? x : hidden.values[i - 1].data(),
                 last ? y : hidden.values[i].data(), first ? ldx : columns(layers, i - 1),
                 last ? layers[i].N : columns(layers, i)};
}

constexpr int64_t TALL = 48;         // rows of one task: a multiple of every tile height
constexpr int64_t SHORT = 12;        // of one task where layers take turns
constexpr int64_t GRAIN = 1 << 17;   // multiplications that are worth a thread of their own

}  // namespace

extern "C" int probcomp_isa() { return level(); }

// Returns 0, 1 when a BN is not a multiple of 16, or 2 when memory is short. `isa` below 0 picks the best of this machine.
extern "C" int probcomp_block_chain(const Layer* layers, int count, const float* x, int64_t ldx,
                                    float* y, int64_t M, int threads, int isa) {
  int64_t work = 0;
  for (int i = 0; i < count; ++i) {
    if (layers[i].BN % 16 != 0) return 1;
    work += M * layers[i].crow[layers[i].R] * layers[i].BN * layers[i].BK;
  }
  const int best = level();
  if (isa < 0 || isa > best) isa = best;
  threads = (int)std::min<int64_t>(threads, work / GRAIN + 1);
  // Many rows: each thread takes rows through the whole chain, and hidden values stay in its cache.
  if (threads == 1 || M >= threads * TALL / 2) {
    const int64_t each = (M + TALL - 1) / TALL;
    const int64_t tasks = (each + threads - 1) / threads * threads, step = (M + tasks - 1) / tasks;
    bool full = false;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Hidden hidden(layers, count, step);
      if (!hidden.ready) {
#pragma omp atomic write
        full = true;
      }
#pragma omp for schedule(dynamic)
      for (int64_t m0 = 0; m0 < M; m0 += step) {
        if (!hidden.ready) continue;
        const int64_t rows = std::min(step, M - m0);
        for (int i = 0; i < count; ++i) {
          float* out = y + m0 * layers[count - 1].N;
          const Problem p = problem(layers, count, i, x + m0 * ldx, ldx, out, hidden);
          for (int64_t r = 0; r < layers[i].R; ++r) strip(p, isa, layers[i].order[r], 0, rows);
        }
      }
    }
    return full ? 2 : 0;
  }
  // Few rows: the threads share the block rows of one layer after another. A block row belongs to
  // the same thread in every call, so that its weights stay in that core's cache.
  Hidden hidden(layers, count, M);
  if (!hidden.ready) return 2;
  const int64_t strips = (M + SHORT - 1) / SHORT, step = (M + strips - 1) / strips;
#pragma omp parallel num_threads(threads)
  for (int i = 0; i < count; ++i) {
    const Problem p = problem(layers, count, i, x, ldx, y, hidden);
#pragma omp for schedule(static, strips) collapse(2)
    for (int64_t r = 0; r < layers[i].R; ++r)
      for (int64_t s = 0; s < strips; ++s)
        strip(p, isa, layers[i].order[r], s * step, std::min(M, s * step + step));
  }
  return 0;
}
