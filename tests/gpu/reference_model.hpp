// The decoder in double on the dequantized weights, with the cache in binary16, as plainly as it can be written: what runner tests compare with.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/ids.hpp"
#include "model/model.hpp"

namespace troupe::testing {

class reference_model {
 public:
  explicit reference_model(const model::loaded_model& m) : m_(m), c_(m.config) {}

  // Logits of every token.
  std::vector<std::vector<double>> logits(std::span<const token_id> tokens) const {
    const std::size_t n = tokens.size();
    std::vector<row> x(n);
    for (std::size_t t = 0; t < n; ++t) x[t] = weights_row(m_.weights.embed_tokens, tokens[t]);
    for (const auto& layer : m_.weights.layers) decode(layer, x);
    std::vector<row> out(n);
    for (std::size_t t = 0; t < n; ++t)
      out[t] = multiply(m_.weights.lm_head, norm(x[t], m_.weights.norm));
    return out;
  }

 private:
  using row = std::vector<double>;

  static row weights_row(const model::tensor& t, std::uint64_t r) {
    std::vector<float> f(t.columns);
    model::dequantize_row(t, r, f);
    return {f.begin(), f.end()};
  }
  static row multiply(const model::tensor& w, const row& x) {
    row y(w.rows);
    for (std::uint64_t r = 0; r < w.rows; ++r) {
      const row v = weights_row(w, r);
      for (std::size_t k = 0; k < x.size(); ++k) y[r] += v[k] * x[k];
    }
    return y;
  }
  row norm(std::span<const double> x, const model::tensor& weight) const {
    const row w = weights_row(weight, 0);
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + c_.rms_norm_eps);
    row y(x.size());
    for (std::size_t k = 0; k < x.size(); ++k) y[k] = x[k] * factor * w[k];
    return y;
  }
  // The cache holds IEEE binary16.
  static void round_to_half(row& x) {
    for (double& v : x) {
      int exponent = 0;
      std::frexp(v, &exponent);
      const double step = std::ldexp(1.0, std::max(exponent, -13) - 11);
      v = std::nearbyint(v / step) * step;
    }
  }
  row projection(const model::tensor& w, const model::tensor& bias, const row& x) const {
    row y = multiply(w, x);
    if (!bias.exists()) return y;
    const row b = weights_row(bias, 0);
    for (std::size_t k = 0; k < y.size(); ++k) y[k] += b[k];
    return y;
  }
  void rotate(row& heads, std::size_t position, const model::tensor& head_norm) const {
    const auto f = model::frequencies(c_.rope);
    const std::size_t half = c_.rope.dimensions / 2;
    for (std::size_t at = 0; at < heads.size(); at += c_.head_dim) {
      if (head_norm.exists()) {
        const row y = norm(std::span(heads).subspan(at, c_.head_dim), head_norm);
        std::copy(y.begin(), y.end(), heads.begin() + static_cast<std::ptrdiff_t>(at));
      }
      for (std::size_t k = 0; k < half; ++k) {
        double& a = heads[at + (c_.rope.interleaved ? 2 * k : k)];
        double& b = heads[at + (c_.rope.interleaved ? 2 * k + 1 : k + half)];
        const double angle = static_cast<double>(position) * f.inv_freq[k];
        const double c = std::cos(angle) * f.attention_factor,
                     s = std::sin(angle) * f.attention_factor;
        const double old = a;
        a = a * c - b * s;
        b = b * c + old * s;
      }
    }
  }
  row attend(const row& q, const std::vector<row>& k, const std::vector<row>& v,
             std::size_t position) const {
    row out(q.size());
    const std::size_t group = c_.num_attention_heads / c_.num_key_value_heads, dim = c_.head_dim;
    for (std::size_t h = 0; h < c_.num_attention_heads; ++h) {
      row p(position + 1);
      double sum = 0;
      for (std::size_t t = 0; t <= position; ++t) {
        double s = 0;
        for (std::size_t d = 0; d < dim; ++d) s += q[h * dim + d] * k[t][h / group * dim + d];
        sum += p[t] = std::exp(s / std::sqrt(static_cast<double>(dim)));
      }
      for (std::size_t t = 0; t <= position; ++t)
        for (std::size_t d = 0; d < dim; ++d)
          out[h * dim + d] += p[t] / sum * v[t][h / group * dim + d];
    }
    return out;
  }
  void decode(const model::layer_weights& w, std::vector<row>& x) const {
    const std::size_t n = x.size();
    std::vector<row> q(n), k(n), v(n);
    for (std::size_t t = 0; t < n; ++t) {
      const row y = norm(x[t], w.attn_norm);
      q[t] = projection(w.q_proj, w.q_bias, y);
      k[t] = projection(w.k_proj, w.k_bias, y);
      v[t] = projection(w.v_proj, w.v_bias, y);
      rotate(q[t], t, w.q_norm);
      rotate(k[t], t, w.k_norm);
      round_to_half(k[t]);
      round_to_half(v[t]);
    }
    for (std::size_t t = 0; t < n; ++t) {
      const row o = multiply(w.o_proj, attend(q[t], k, v, t));
      for (std::size_t i = 0; i < o.size(); ++i) x[t][i] += o[i];
      const row y = norm(x[t], w.ffn_norm);
      const row gate = multiply(w.gate_proj, y);
      row up = multiply(w.up_proj, y);
      for (std::size_t i = 0; i < up.size(); ++i) up[i] *= gate[i] / (1 + std::exp(-gate[i]));
      const row down = multiply(w.down_proj, up);
      for (std::size_t i = 0; i < down.size(); ++i) x[t][i] += down[i];
    }
  }

  const model::loaded_model& m_;
  const model::model_config& c_;
};

}  // namespace troupe::testing
