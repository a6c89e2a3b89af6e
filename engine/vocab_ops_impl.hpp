// The source of the vocab_ops_*.cpp files; each defines TROUPE_VECTOR_BYTES and TROUPE_VOCAB_OPS
// first. GNU vector extensions name the lanes; no header with inline functions is included, because
// such functions would be compiled for this instruction set and could be linked in place of the
// portable ones.
#include <stddef.h>
#include <stdint.h>

#include "engine/vocab_ops.hpp"

namespace troupe::engine {
namespace {

constexpr size_t lanes = TROUPE_VECTOR_BYTES / 4;  // of one register
constexpr size_t logical_lanes = 16;
constexpr size_t parts = logical_lanes / lanes;
constexpr size_t half = lanes / 2;

typedef float vf __attribute__((vector_size(TROUPE_VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(TROUPE_VECTOR_BYTES)));
typedef float vf_half __attribute__((vector_size(TROUPE_VECTOR_BYTES / 2)));
typedef double vd __attribute__((vector_size(TROUPE_VECTOR_BYTES)));

inline vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, vf v) {
  __builtin_memcpy(p, &v, sizeof v);
}
inline vf all(float x) {
  return vf{} + x;
}
inline vi all(int32_t x) {
  return vi{} + x;
}

// exp for x <= 0: x = n ln2 + r, |r| <= ln2/2, a polynomial for e^r (Taylor to r^7, error below one
// unit in the last place), 2^n by its exponent bits. Below -87 the result is 0.
inline vf exp_nonpositive(vf x) {
  const vi dead = x < all(-87.0f);
  const vf y = dead ? all(-87.0f) : x;
  const vf magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf shifted = y * all(1.44269504f) + magic;
  const vf n = shifted - magic;
  const vf r = (y - n * all(0.693359375f)) - n * all(-2.12194440e-4f);
  vf p = all(1.98412698e-4f);
  p = p * r + all(1.38888889e-3f);
  p = p * r + all(8.33333333e-3f);
  p = p * r + all(4.16666667e-2f);
  p = p * r + all(1.66666667e-1f);
  p = p * r + all(0.5f);
  p = p * r + all(1.0f);
  p = p * r + all(1.0f);
  const vi exponent = ((vi)shifted - (vi)magic + all(int32_t{127})) << 23;
  return dead ? vf{} : p * (vf)exponent;
}

inline void add_doubles(vd* sum, vf v) {  // sum[0], sum[1]: the lower and the upper lanes
  vf_half low, high;
  __builtin_memcpy(&low, &v, sizeof low);
  __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
  sum[0] += __builtin_convertvector(low, vd);
  sum[1] += __builtin_convertvector(high, vd);
}

// Lane l takes lane l + 8, then l + 4, l + 2, l + 1: whole registers first, then within one.
inline double reduce(vd* sum) {
  for (size_t width = parts; width > 0; width /= 2)
    for (size_t i = 0; i < width; ++i) sum[i] += sum[i + width];
  double s[half];
  __builtin_memcpy(s, sum, sizeof s);
  for (size_t width = half / 2; width > 0; width /= 2)
    for (size_t l = 0; l < width; ++l) s[l] += s[l + width];
  return s[0];
}

inline float largest(const vf* m) {
  float s[logical_lanes];
  __builtin_memcpy(s, m, sizeof s);
  for (size_t width = logical_lanes / 2; width > 0; width /= 2)
    for (size_t l = 0; l < width; ++l) s[l] = s[l + width] > s[l] ? s[l + width] : s[l];
  return s[0];
}

// The last chunk of a row whose length is no multiple of 64, filled up.
inline const float* whole_chunk(const float* x, size_t count, float fill, float* room) {
  if (count == vocab_chunk) return x;
  for (size_t i = 0; i < vocab_chunk; ++i) room[i] = i < count ? x[i] : fill;
  return room;
}

bool scan(const float* logits, size_t n, float* chunk_max) {
  vi bad[parts] = {};
  float room[vocab_chunk];
  for (size_t begin = 0; begin < n; begin += vocab_chunk) {
    const size_t count = n - begin < vocab_chunk ? n - begin : vocab_chunk;
    const float* x = whole_chunk(logits + begin, count, logits[begin], room);
    vf m[parts];
    for (size_t p = 0; p < parts; ++p) m[p] = all(-__builtin_inff());
    for (size_t i = 0; i < vocab_chunk; i += logical_lanes)
      for (size_t p = 0; p < parts; ++p) {
        const vf v = load(x + i + p * lanes);
        bad[p] |= ((vi)v & all(int32_t{0x7fffffff})) > all(int32_t{0x7f7fffff});
        m[p] = v > m[p] ? v : m[p];
      }
    chunk_max[begin / vocab_chunk] = largest(m);
  }
  int32_t any = 0;
  for (size_t p = 0; p < parts; ++p)
    for (size_t l = 0; l < lanes; ++l) any |= bad[p][l];
  return any == 0;
}

void exp_weights(const float* logits, size_t n, float max, float scale, float* weights,
                 double* chunk_sum) {
  float in[vocab_chunk], out[vocab_chunk];
  for (size_t begin = 0; begin < n; begin += vocab_chunk) {
    const size_t count = n - begin < vocab_chunk ? n - begin : vocab_chunk;
    const float* x = whole_chunk(logits + begin, count, -__builtin_inff(), in);
    float* w = count == vocab_chunk ? weights + begin : out;
    vd sum[2 * parts] = {};
    for (size_t i = 0; i < vocab_chunk; i += logical_lanes)
      for (size_t p = 0; p < parts; ++p) {
        const vf e = exp_nonpositive((load(x + i + p * lanes) - all(max)) * all(scale));
        store(w + i + p * lanes, e);
        add_doubles(sum + 2 * p, e);
      }
    if (w == out)
      for (size_t i = 0; i < count; ++i) weights[begin + i] = out[i];
    chunk_sum[begin / vocab_chunk] = reduce(sum);
  }
}

void cut_weights(const float* logits, size_t n, const vocab_cut& cut, float* weights,
                 double* chunk_sum) {
  float x_room[vocab_chunk], w_room[vocab_chunk];
  vi lane_number;
  for (size_t l = 0; l < lanes; ++l) lane_number[l] = static_cast<int32_t>(l);
  const vi last = all(static_cast<int32_t>(cut.token));
  for (size_t begin = 0; begin < n; begin += vocab_chunk) {
    const size_t count = n - begin < vocab_chunk ? n - begin : vocab_chunk;
    const float* x = whole_chunk(logits + begin, count, 0, x_room);
    const float* w_in = whole_chunk(weights + begin, count, 0, w_room);
    float* w = count == vocab_chunk ? weights + begin : w_room;
    vd sum[2 * parts] = {};
    for (size_t i = 0; i < vocab_chunk; i += logical_lanes)
      for (size_t p = 0; p < parts; ++p) {
        const size_t at = i + p * lanes;
        const vf v = load(x + at), old = load(w_in + at);
        const vi token = lane_number + static_cast<int32_t>(begin + at);
        const vi kept = ((v > all(cut.logit)) | ((v == all(cut.logit)) & (token <= last))) &
                        (old >= all(cut.min_weight));
        const vf e = kept ? old : vf{};
        store(w + at, e);
        add_doubles(sum + 2 * p, e);
      }
    if (w == w_room)
      for (size_t i = 0; i < count; ++i) weights[begin + i] = w_room[i];
    chunk_sum[begin / vocab_chunk] = reduce(sum);
  }
}

static_assert(half * 2 == lanes && sizeof(vd) == 2 * sizeof(vf_half));

}  // namespace

extern const vocab_ops TROUPE_VOCAB_OPS;
const vocab_ops TROUPE_VOCAB_OPS = {TROUPE_VOCAB_NAME, scan, exp_weights, cut_weights};

}  // namespace troupe::engine
