#include "tests/simulation/answers.hpp"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <tuple>

#include "engine/engine.hpp"
#include "model/tokenizer.hpp"
#include "tests/model/tiny_gguf.hpp"
#include "tests/simulation/hash_runner.hpp"

namespace troupe::simulation {

std::shared_ptr<const model::loaded_model> served_model() {
  static const auto model = [] {
    testing::temporary_directory dir;
    testing::tiny_model tiny;
    tiny.hidden_size = 32;
    tiny.intermediate_size = 64;
    tiny.num_hidden_layers = 1;
    tiny.num_attention_heads = 2;
    tiny.num_key_value_heads = 1;
    tiny.context = 64;
    testing::write_tiny_gguf(dir / "tiny.gguf", tiny);
    auto opened = model::open_model(dir / "tiny.gguf");
    TROUPE_ASSERT(opened.has_value());
    return *opened;
  }();
  return model;
}

std::unique_ptr<gpu::model_runner> make_device(device_kind kind, std::uint32_t block_tokens,
                                               const gpu::runner_options& options,
                                               std::uint32_t other_percent) {
  if (kind != device_kind::tiny_model)
    return std::make_unique<hash_runner>(
        block_tokens, served_model()->config.vocab_size,
        hash_runner::logits_kind{kind == device_kind::peaked_hashes, other_percent});
  auto small = options;
  small.device = "cpu";
  small.num_threads = 1;
  small.block_tokens = block_tokens;
  auto made = gpu::make_runner(served_model(), small);
  TROUPE_ASSERT(made.has_value());
  return std::move(*made);
}

std::vector<token_id> prompt_of(const request& r) {
  random words(r.family * 1000 + 17);
  std::vector<token_id> prompt;
  for (std::uint32_t i = 0; i < r.prompt_tokens; ++i) {
    // The second half is the request's own: equal only for equal lengths.
    if (i == (r.prompt_tokens + 1) / 2) words = random(r.family * 1000 + 100 + r.prompt_tokens);
    prompt.push_back(3 + static_cast<token_id>(words.below(200)));
  }
  return prompt;
}

engine::sampling_params sampling_of(const request& r) {
  engine::sampling_params p;
  p.max_tokens = r.max_tokens;
  p.seed = 1000 + r.variant;
  switch (r.variant) {
    case 0:
      p.temperature = 0;
      break;
    case 1:
      p.temperature = 0.8f;
      p.top_p = 0.9f;
      break;
    case 2:
      p.temperature = 1.2f;
      p.repetition_penalty = 1.3f;
      p.presence_penalty = 0.5f;
      p.ignore_eos = true;
      break;
    default:
      p.temperature = 0.7f;
      p.top_k = 20;
      p.frequency_penalty = 0.7f;
      p.min_tokens = std::min(2u, r.max_tokens);
      break;
  }
  return p;
}

const answer& expected_answer(device_kind device, std::uint32_t block_tokens, const request& r) {
  using key = std::tuple<device_kind, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t,
                         std::uint32_t>;
  static std::map<key, answer> known;
  auto& a = known[{device, block_tokens, r.family, r.prompt_tokens, r.max_tokens, r.variant}];
  if (a.reason != engine::finish_reason::none) return a;

  gpu::runner_options options;
  options.max_batch_tokens = 64;
  options.max_batch_sequences = 4;
  auto runner = make_device(device, block_tokens, options);
  const std::uint32_t blocks = 32;
  const auto bytes = blocks * runner->layout().block_bytes();
  std::unique_ptr<std::byte, void (*)(void*)> memory(
      static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)), std::free);
  const std::span<std::byte> arena(memory.get(), bytes);
  TROUPE_ASSERT(runner->attach_kv(arena, blocks).has_value());
  engine::engine_options e;
  e.num_blocks = blocks;
  e.vocab_size = served_model()->config.vocab_size;
  e.max_model_len = served_model()->config.max_position_embeddings;
  e.max_num_seqs = 4;
  e.max_num_batched_tokens = 64;
  e.max_prefill_chunk = 64;
  e.prefix_caching = false;
  auto tokenizer = model::tokenizer::make(*served_model());
  TROUPE_ASSERT(tokenizer.has_value());
  e.end_of_generation = (*tokenizer)->end_of_generation();
  auto alone = engine::engine::make(*runner, arena, e);
  TROUPE_ASSERT(alone.has_value());
  engine::generation_request g;
  g.id = request_id{1};
  g.prompt = prompt_of(r);
  g.sampling = sampling_of(r);
  const engine::time_point start{};
  if (auto added = (*alone)->add(g, start); !added) {
    std::fprintf(stderr, "the yardstick refuses a request: %s\n", to_string(added.error()).c_str());
    std::abort();
  }
  for (int i = 0; i < 1000 && a.reason == engine::finish_reason::none; ++i) {
    auto report = (*alone)->step(start);
    TROUPE_ASSERT(report.has_value());
    for (const auto& t : report->happened.tokens)
      for (const auto& token : t.tokens) a.tokens.push_back(token.token);
    for (const auto& f : report->happened.finished) a.reason = f.reason;
  }
  TROUPE_ASSERT(a.reason == engine::finish_reason::stop ||
                a.reason == engine::finish_reason::length);
  return a;
}

}  // namespace troupe::simulation
