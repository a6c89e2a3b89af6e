// The source of the vocab_ops_*.cpp files; each defines TROUPE_VECTOR_BYTES and TROUPE_VOCAB_OPS
// first. GNU vector extensions name the lanes; no header with inline functions is included, because
// such functions would be compiled for this instruction set and could be linked in place of the
// portable ones.
#include <stddef.h>
#include <stdint.h>

#include "engine/vocab_ops.hpp"
#include "gpu/exp_constants.hpp"

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
typedef int64_t vl __attribute__((vector_size(TROUPE_VECTOR_BYTES)));

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

using constants = gpu::exp_constants;

// gpu::exp_nonpositive for a register.
inline vf exp_nonpositive(vf x) {
  using c = constants;
  const vi dead = x < all(c::least);
  const vf y = dead ? all(c::least) : x;
  const vf magic = all(c::magic);
  const vf shifted = y * all(c::log2_e) + magic;
  const vf n = shifted - magic;
  const vf r = (y - n * all(c::ln2_high)) - n * all(c::ln2_low);
  vf p = all(c::p7);
  p = p * r + all(c::p6);
  p = p * r + all(c::p5);
  p = p * r + all(c::p4);
  p = p * r + all(c::p3);
  p = p * r + all(c::p2);
  p = p * r + all(1.0f);
  p = p * r + all(1.0f);
  const vi exponent = ((vi)shifted - (vi)magic + all(int32_t{127})) << 23;
  return dead ? vf{} : p * (vf)exponent;
}

// gpu::weight_units of a register's lanes, added to `sum`.
inline void add_units(vl* sum, vf v) {
  vf_half low, high;
  __builtin_memcpy(&low, &v, sizeof low);
  __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
  const vd scale = vd{} + constants::unit_scale, magic = vd{} + constants::unit_magic;
  *sum += (vl)(__builtin_convertvector(low, vd) * scale + magic) - (vl)magic;
  *sum += (vl)(__builtin_convertvector(high, vd) * scale + magic) - (vl)magic;
}

inline uint64_t reduce(vl sum) {
  int64_t s[half], total = 0;
  __builtin_memcpy(s, &sum, sizeof s);
  for (size_t l = 0; l < half; ++l) total += s[l];
  return static_cast<uint64_t>(total);
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
                 uint64_t* chunk_sum) {
  float in[vocab_chunk], out[vocab_chunk];
  for (size_t begin = 0; begin < n; begin += vocab_chunk) {
    const size_t count = n - begin < vocab_chunk ? n - begin : vocab_chunk;
    const float* x = whole_chunk(logits + begin, count, -__builtin_inff(), in);
    float* w = count == vocab_chunk ? weights + begin : out;
    vl sum = {};
    for (size_t i = 0; i < vocab_chunk; i += logical_lanes)
      for (size_t p = 0; p < parts; ++p) {
        const vf e = exp_nonpositive((load(x + i + p * lanes) - all(max)) * all(scale));
        store(w + i + p * lanes, e);
        add_units(&sum, e);
      }
    if (w == out)
      for (size_t i = 0; i < count; ++i) weights[begin + i] = out[i];
    chunk_sum[begin / vocab_chunk] = reduce(sum);
  }
}

void cut_weights(const float* logits, size_t n, const vocab_cut& cut, float* weights,
                 uint64_t* chunk_sum) {
  float x_room[vocab_chunk], w_room[vocab_chunk];
  vi lane_number;
  for (size_t l = 0; l < lanes; ++l) lane_number[l] = static_cast<int32_t>(l);
  const vi last = all(static_cast<int32_t>(cut.token));
  for (size_t begin = 0; begin < n; begin += vocab_chunk) {
    const size_t count = n - begin < vocab_chunk ? n - begin : vocab_chunk;
    const float* x = whole_chunk(logits + begin, count, 0, x_room);
    const float* w_in = whole_chunk(weights + begin, count, 0, w_room);
    float* w = count == vocab_chunk ? weights + begin : w_room;
    vl sum = {};
    for (size_t i = 0; i < vocab_chunk; i += logical_lanes)
      for (size_t p = 0; p < parts; ++p) {
        const size_t at = i + p * lanes;
        const vf v = load(x + at), old = load(w_in + at);
        const vi token = lane_number + static_cast<int32_t>(begin + at);
        const vi kept = ((v > all(cut.logit)) | ((v == all(cut.logit)) & (token <= last))) &
                        (old >= all(cut.min_weight));
        const vf e = kept ? old : vf{};
        store(w + at, e);
        add_units(&sum, e);
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
