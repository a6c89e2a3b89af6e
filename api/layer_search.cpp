#include "api/layer_search.hpp"

#include <algorithm>
#include <cmath>
#include <new>

#include "api/speculation_prompts.hpp"
#include "gpu/model_runner.hpp"
#include "model/tokenizer.hpp"

namespace troupe::api {
namespace {

constexpr std::uint32_t answer_tokens = 40, most_prompt = 40;
// Of the layers that have to go, this part goes in a round: the first choices matter least.
constexpr std::size_t round_part = 5;

struct arena_deleter {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

struct text {
  std::vector<token_id> tokens;  // prompt, then the whole model's answer
  std::uint32_t num_prompt = 0;
};

// A runner of some of the layers, with blocks for all texts.
struct part {
  std::unique_ptr<std::byte, arena_deleter> memory;
  std::unique_ptr<gpu::model_runner> runner;
  std::uint32_t blocks_each = 0;
};

struct score {
  double log_probability = 0;  // of the answers, mean
  double agreement = 0;
};

result<part> make_part(const model::loaded_model& whole, const std::vector<std::uint32_t>& layers,
                       std::size_t texts) {
  auto m = std::make_shared<model::loaded_model>(whole);
  m->config.num_hidden_layers = static_cast<std::uint32_t>(layers.size());
  m->weights.layers.clear();
  for (const auto l : layers) m->weights.layers.push_back(whole.weights.layers[l]);
  gpu::runner_options o;
  o.device = "cpu";
  o.max_batch_tokens = 512;
  part p;
  TROUPE_TRY(p.runner, gpu::make_runner(m, o));
  const auto& layout = p.runner->layout();
  p.blocks_each = layout.blocks_for(most_prompt + answer_tokens);
  const auto num_blocks = static_cast<std::uint32_t>(texts) * p.blocks_each;
  const std::size_t bytes = num_blocks * layout.block_bytes();
  p.memory.reset(
      static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}, std::nothrow)));
  if (!p.memory)
    return fail(ec::out_of_memory, "not enough memory for the KV blocks of the search");
  TROUPE_CHECK(p.runner->attach_kv({p.memory.get(), bytes}, num_blocks));
  return p;
}

std::vector<block_id> table_of(const part& p, std::size_t text) {
  std::vector<block_id> table(p.blocks_each);
  for (std::uint32_t i = 0; i < p.blocks_each; ++i)
    table[i] = static_cast<std::uint32_t>(text) * p.blocks_each + i;
  return table;
}

token_id most_likely(std::span<const float> logits) {
  return static_cast<token_id>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

result<void> answer(part& p, std::size_t index, text& t, std::uint32_t vocab) {
  const auto table = table_of(p, index);
  std::uint32_t done = 0;
  for (std::uint32_t i = 0; i < answer_tokens; ++i) {
    const auto rest = std::span<const token_id>(t.tokens).subspan(done);
    const gpu::sequence_rows rows{rest, done, table, 1};
    TROUPE_TRY(const auto out, p.runner->forward({std::span(&rows, 1)}));
    done += static_cast<std::uint32_t>(rest.size());
    t.tokens.push_back(most_likely(out.logits.first(vocab)));
  }
  return {};
}

result<std::vector<text>> make_texts(const model::loaded_model& whole,
                                     const std::vector<std::uint32_t>& all) {
  TROUPE_TRY(const auto tokenizer, model::tokenizer::make(whole));
  std::vector<text> texts;
  for (const bench_prompts& w : speculation_prompts) {
    text t;
    t.tokens = tokenizer->encode(
        "<|im_start|>user\n" + std::string(w.prompts[0]) + "<|im_end|>\n<|im_start|>assistant\n",
        false, true);
    if (t.tokens.size() > most_prompt)
      t.tokens.erase(t.tokens.begin(), t.tokens.end() - most_prompt);
    t.num_prompt = static_cast<std::uint32_t>(t.tokens.size());
    texts.push_back(std::move(t));
  }
  TROUPE_TRY(part p, make_part(whole, all, texts.size()));
  for (std::size_t i = 0; i < texts.size(); ++i)
    TROUPE_CHECK(answer(p, i, texts[i], whole.config.vocab_size));
  return texts;
}

result<score> judge(const model::loaded_model& whole, const std::vector<std::uint32_t>& layers,
                    const std::vector<text>& texts) {
  TROUPE_TRY(part p, make_part(whole, layers, texts.size()));
  const std::uint32_t vocab = whole.config.vocab_size;
  score sum;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto table = table_of(p, i);
    const auto tokens = std::span<const token_id>(texts[i].tokens);
    // The row of a position says what follows it; the last token is followed by nothing that is known.
    const gpu::sequence_rows rows{tokens.first(tokens.size() - 1), 0, table, answer_tokens};
    TROUPE_TRY(const auto out, p.runner->forward({std::span(&rows, 1)}));
    for (std::uint32_t k = 0; k < answer_tokens; ++k) {
      const auto logits = out.logits.subspan(std::size_t{k} * vocab, vocab);
      const token_id said = tokens[tokens.size() - answer_tokens + k];
      const token_id best = most_likely(logits);
      double total = 0;
      for (const float l : logits) total += std::exp(static_cast<double>(l - logits[best]));
      sum.log_probability += static_cast<double>(logits[said] - logits[best]) - std::log(total);
      sum.agreement += said == best ? 1 : 0;
    }
  }
  const double count = static_cast<double>(texts.size()) * answer_tokens;
  return score{sum.log_probability / count, sum.agreement / count};
}

}  // namespace

result<std::vector<std::uint32_t>> search_layers(
    std::shared_ptr<const model::loaded_model> model, std::uint32_t keep,
    const std::function<void(std::uint32_t, double)>& progress) {
  const auto num_layers = static_cast<std::uint32_t>(model->weights.layers.size());
  if (keep == 0 || keep >= num_layers)
    return fail(ec::invalid_argument, "--keep " + std::to_string(keep) + ": the model has " +
                                          std::to_string(num_layers) + " layers");
  std::vector<std::uint32_t> layers(num_layers);
  for (std::uint32_t l = 0; l < num_layers; ++l) layers[l] = l;
  TROUPE_TRY(const auto texts, make_texts(*model, layers));
  while (layers.size() > keep) {
    std::vector<std::pair<double, std::uint32_t>> without;
    for (const auto candidate : layers) {
      auto rest = layers;
      std::erase(rest, candidate);
      TROUPE_TRY(const score s, judge(*model, rest, texts));
      without.emplace_back(s.log_probability, candidate);
    }
    std::sort(without.rbegin(), without.rend());
    const std::size_t gone = std::max<std::size_t>(1, (layers.size() - keep) / round_part);
    for (std::size_t i = 0; i < gone; ++i) std::erase(layers, without[i].second);
    TROUPE_TRY(const score now, judge(*model, layers, texts));
    progress(static_cast<std::uint32_t>(layers.size()), now.agreement);
  }
  return layers;
}

}  // namespace troupe::api
