// The host device: cuts a batch into passes of bounded size and runs them on the pool.
//
// Owner and thread: one engine loop (gpu/model_runner.hpp). The pass is computed inside submit.
#include <algorithm>
#include <vector>

#include "gpu/device_registry.hpp"
#include "gpu/host/cpu.hpp"
#include "gpu/host/forward_pass.hpp"
#include "gpu/host/host_weights.hpp"
#include "gpu/host/thread_pool.hpp"

namespace troupe::gpu {
namespace host {
namespace {

class host_runner final : public model_runner {
 public:
  host_runner(std::shared_ptr<const model::loaded_model> m, const runner_options& options,
              const kernel_table& kernels)
      : model_(std::move(m)),
        kernels_(kernels),
        rows_max_(options.max_batch_tokens),
        pool_(options.num_threads ? options.num_threads : available_cores()) {
    const model::model_config& c = model_->config;
    layout_ = {c.num_hidden_layers, c.num_key_value_heads, c.head_dim, options.block_tokens,
               kv_dtype::f16};
  }

  result<void> load(const std::function<void(double)>& progress) {
    TROUPE_TRY(weights_, load_weights(*model_, pool_, progress));
    TROUPE_TRY(forward_, forward_pass::make(model_->config, layout_, weights_, kernels_, pool_));
    return {};
  }

  const kv_layout& layout() const override { return layout_; }
  memory_kind kv_memory() const override { return memory_kind::host; }
  result<std::span<std::byte>> allocate_kv(std::uint32_t) override {
    return fail(ec::unsupported, "the host device's KV arena comes from the transport");
  }
  result<void> attach_kv(std::span<std::byte> arena, std::uint32_t num_blocks) override {
    if (arena.size() < num_blocks * layout_.block_bytes()) {
      return fail(ec::invalid_argument, "the KV arena is smaller than its blocks");
    }
    num_blocks_ = num_blocks;
    forward_->set_arena(arena.data());
    return {};
  }

  result<void> submit(const batch& b) override;
  result<step_output> collect() override {
    TROUPE_ASSERT(computed_);
    computed_ = false;
    return step_output{
        std::span<const float>(logits_.data(), num_logits_ * model_->config.vocab_size)};
  }

  std::size_t weight_bytes() const override {
    return weights_.arena.size() + forward_->buffer_bytes() + logits_.capacity() * sizeof(float);
  }
  std::string description() const override {
    return std::string("host, ") + kernels_.name + ", " + std::to_string(pool_.size()) +
           (pool_.size() == 1 ? " thread" : " threads");
  }

 private:
  void check(const batch& b) const;
  void spread(float* logits) const;
  void flush(pass& p, std::size_t first_logit);

  std::shared_ptr<const model::loaded_model> model_;
  const kernel_table& kernels_;
  const std::uint32_t rows_max_;
  thread_pool pool_;
  kv_layout layout_;
  host_weights weights_;
  std::unique_ptr<forward_pass> forward_;
  std::uint32_t num_blocks_ = 0;
  std::vector<float> logits_;
  std::size_t num_logits_ = 0;
  bool computed_ = false;
};

void host_runner::check(const batch& b) const {
  TROUPE_ASSERT(num_blocks_ > 0);
  TROUPE_ASSERT(b.num_rows() <= rows_max_);
  for (const sequence_rows& s : b.sequences) {
    TROUPE_ASSERT(!s.tokens.empty());
    TROUPE_ASSERT(s.num_logits <= s.tokens.size());
    TROUPE_ASSERT(layout_.blocks_for(s.first_position + s.tokens.size()) <= s.block_table.size());
    for (const token_id t : s.tokens) TROUPE_ASSERT(t < model_->config.vocab_size);
    for (const block_id id : s.block_table) TROUPE_ASSERT(id < num_blocks_);
  }
}

// The outputs of a head of some tokens only, to where these tokens' logits belong; the others are impossible. From the last
// on, since none moves to the left.
void host_runner::spread(float* logits) const {
  const auto& tokens = weights_.lm_head_tokens;
  if (tokens.empty()) return;
  constexpr float never = -1e30f;  // finite, as logits are
  std::size_t end = model_->config.vocab_size;
  for (std::size_t i = tokens.size(); i-- > 0; end = tokens[i]) {
    const float value = logits[i];
    std::fill(logits + tokens[i] + 1, logits + end, never);
    logits[tokens[i]] = value;
  }
  std::fill(logits, logits + end, never);
}

void host_runner::flush(pass& p, std::size_t first_logit) {
  if (p.rows.empty()) return;
  p.logits = logits_.data() + first_logit * model_->config.vocab_size;
  forward_->run(p);
  for (std::size_t row = 0; row < p.logits_rows.size(); ++row)
    spread(p.logits + row * model_->config.vocab_size);
  p.rows.clear();
  p.sequences.clear();
  p.logits_rows.clear();
}

// A long prompt is cut into passes of forward_pass::rows_max rows: later rows find the earlier ones' KV in the cache, and
// the activations of a pass stay small. Cutting changes no result.
result<void> host_runner::submit(const batch& b) {
  TROUPE_ASSERT(!computed_);
  check(b);
  num_logits_ = b.num_logits();
  logits_.resize(std::max(logits_.size(), num_logits_ * model_->config.vocab_size));
  pass p;
  std::size_t flushed_logits = 0;
  for (const sequence_rows& s : b.sequences) {
    const auto count = static_cast<std::uint32_t>(s.tokens.size());
    for (std::uint32_t k = 0; k < count;) {
      const auto room = forward_pass::rows_max - static_cast<std::uint32_t>(p.rows.size());
      const std::uint32_t n = std::min(room, count - k);
      const auto first_row = static_cast<std::uint32_t>(p.rows.size());
      const auto index = static_cast<std::uint32_t>(p.sequences.size());
      p.sequences.push_back({first_row, n, s.first_position + k, s.block_table});
      for (std::uint32_t r = 0; r < n; ++r) {
        p.rows.push_back({s.tokens[k + r], s.first_position + k + r, index});
        if (k + r >= count - s.num_logits) p.logits_rows.push_back(first_row + r);
      }
      k += n;
      if (p.rows.size() == forward_pass::rows_max) {
        const std::size_t in_pass = p.logits_rows.size();
        flush(p, flushed_logits);
        flushed_logits += in_pass;
      }
    }
  }
  flush(p, flushed_logits);
  computed_ = true;
  return {};
}

}  // namespace
}  // namespace host

result<std::unique_ptr<model_runner>> make_host_runner(std::shared_ptr<const model::loaded_model> m,
                                                       const runner_options& options) {
  if (options.block_tokens == 0 || options.max_batch_tokens == 0) {
    return fail(ec::invalid_argument, "block_tokens and max_batch_tokens must be positive");
  }
  TROUPE_TRY(const host::kernel_table* kernels, host::choose_kernels(options.isa));
  auto runner = std::make_unique<host::host_runner>(std::move(m), options, *kernels);
  TROUPE_CHECK(runner->load(options.progress));
  return runner;
}

}  // namespace troupe::gpu
