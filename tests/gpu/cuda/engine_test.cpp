// Promise 1 on the GPU, under `exact`: a request's tokens and logprobs are those it has alone, whatever is in the batch, however
// prompts are cut, and with drafts, for every way to sample and answers of a form; and they are those of the host's sampler over the same logits.
#include <functional>
#include <map>

#include "engine/engine.hpp"
#include "gpu/device_registry.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/reference_model.hpp"

namespace troupe::gpu::cuda {
namespace {

namespace structured = engine::structured;

// Hides that the device samples.
class logits_only final : public model_runner {
 public:
  explicit logits_only(model_runner& inner) : inner_(inner) {}
  const kv_layout& layout() const override { return inner_.layout(); }
  memory_kind kv_memory() const override { return inner_.kv_memory(); }
  result<std::span<std::byte>> allocate_kv(std::uint32_t n) override {
    return inner_.allocate_kv(n);
  }
  std::shared_ptr<transport::device_memory> device_memory() override {
    return inner_.device_memory();
  }
  result<void> attach_kv(std::span<std::byte> arena, std::uint32_t n) override {
    return inner_.attach_kv(arena, n);
  }
  result<void> submit(const batch& b) override { return inner_.submit({b.sequences, {}}); }
  result<step_output> collect() override { return inner_.collect(); }
  std::size_t weight_bytes() const override { return inner_.weight_bytes(); }
  std::string description() const override { return inner_.description(); }

 private:
  model_runner& inner_;
};

class engine_test : public gpu_test {
 protected:
  static constexpr std::uint32_t num_blocks = 400, num_requests = 20;
  using answers = std::map<request_id, std::vector<engine::token_output>>;

  void SetUp() override {
    gpu_test::SetUp();
    if (IsSkipped()) return;
    const reference_options o{};
    std::mt19937 seeded(20);  // what guesses are right depends on the weights
    model_ = make_random_model(o, seeded);
    runner_options options;
    options.device = "cuda";
    options.exact = true;
    options.max_batch_tokens = 1024;
    auto made = make_cuda_runner(model_, options);
    ASSERT_TRUE(made.has_value()) << to_string(made.error());
    runner_ = std::move(*made);
    arena_ = runner_->allocate_kv(num_blocks).value();
    require(runner_->attach_kv(arena_, num_blocks));
    for (std::uint32_t i = 0; i < num_requests; ++i) requests_.push_back(make_request(i));
  }

  // Texts that repeat themselves, so that there are guesses.
  engine::generation_request make_request(std::uint32_t i) {
    engine::generation_request r;
    r.id = request_id{i + 1};
    for (std::uint32_t t = 0; t < 20 + 9 * i; ++t) r.prompt.push_back(t % 7 * 31 + i);
    engine::sampling_params& p = r.sampling;
    p.temperature = i % 4 == 0 ? 0.0f : 0.4f + 0.2f * static_cast<float>(i % 4);
    if (i % 3 == 1) p.top_p = 0.8f;
    if (i % 5 == 2) p.top_k = 12;
    if (i % 5 == 3) p.min_p = 0.05f;
    if (i % 6 == 1) p.repetition_penalty = 1.2f;
    if (i % 6 == 2) p.frequency_penalty = 0.6f;
    if (i % 6 == 3) p.logit_bias = {{3, 2.0f}, {400, -5.0f}};
    if (i % 4 == 1) p.logprobs = i % 20;
    if (i % 7 == 4) p.prompt_logprobs = 3;
    if (i % 5 == 4) {
      p.format = {structured::format_kind::json_object, ""};
    } else if (i % 5 == 0) {
      p.format = {structured::format_kind::regex, "[a-z]+([0-9]{2}[a-zA-Z ]*)*"};
    } else {
      p.min_tokens = i % 2 == 0 ? 5 : 0;
    }
    p.seed = 1000 + i;
    p.max_tokens = 40;
    return r;
  }

  std::unique_ptr<engine::engine> make_engine(
      model_runner& runner, const std::function<void(engine::engine_options&)>& change) {
    engine::engine_options o;
    o.num_blocks = num_blocks;
    o.vocab_size = model_->config.vocab_size;
    o.max_model_len = 1024;
    o.max_num_batched_tokens = 1024;
    o.end_of_generation = {11};
    o.vocabulary = [size = o.vocab_size] {
      const token_id ends[] = {11};
      return std::make_shared<const structured::vocabulary>(
          size,
          [](token_id t) {
            if (t < 32) return std::string();
            const std::string one(1, static_cast<char>(t % 95 + 32));
            return t < 127 ? one : one + static_cast<char>('a' + t % 26);
          },
          ends);
    };
    if (change) change(o);
    auto made = engine::engine::make(runner, arena_, o);
    EXPECT_TRUE(made.has_value()) << to_string(made.error());
    return std::move(*made);
  }
  answers serve(model_runner& runner, const std::vector<engine::generation_request>& requests,
                const std::function<void(engine::engine_options&)>& change = {}) {
    const auto made = make_engine(runner, change);
    engine::engine& e = *made;
    for (auto r : requests) EXPECT_TRUE(e.add(std::move(r), engine::clock::now()).has_value());
    answers out;
    for (int steps = 0; e.has_work() && steps < 5000; ++steps) {
      auto step = e.step(engine::clock::now());
      EXPECT_TRUE(step.has_value()) << to_string(step.error());
      if (!step) break;
      for (auto& x : step->happened.prompt_logprobs) append(out[x.id], x.tokens);
      for (auto& x : step->happened.tokens) append(out[x.id], x.tokens);
    }
    accepted_ = e.stats().speculation.accepted;
    return out;
  }
  static void append(std::vector<engine::token_output>& to,
                     const std::vector<engine::token_output>& from) {
    to.insert(to.end(), from.begin(), from.end());
  }

  static void expect_same(const answers& got, const answers& wanted, const char* what) {
    ASSERT_EQ(got.size(), wanted.size()) << what;
    for (const auto& [id, tokens] : wanted) {
      const auto& other = got.at(id);
      ASSERT_EQ(other.size(), tokens.size()) << what << ", request " << raw(id);
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        ASSERT_EQ(other[i].token, tokens[i].token) << what << ", request " << raw(id) << ", " << i;
        ASSERT_EQ(other[i].logprob, tokens[i].logprob) << what << ", request " << raw(id);
        ASSERT_EQ(other[i].top.size(), tokens[i].top.size());
        for (std::size_t k = 0; k < tokens[i].top.size(); ++k) {
          ASSERT_EQ(other[i].top[k].token, tokens[i].top[k].token);
          ASSERT_EQ(other[i].top[k].logprob, tokens[i].top[k].logprob);
        }
      }
    }
  }

  std::shared_ptr<const model::loaded_model> model_;
  std::unique_ptr<model_runner> runner_;
  std::span<std::byte> arena_;
  std::vector<engine::generation_request> requests_;
  std::uint64_t accepted_ = 0;
};

TEST_F(engine_test, exact_sampled_answers_are_the_same_in_any_batch_chunk_and_draft) {
  const auto plain = [](engine::engine_options& o) { o.speculation.enabled = false; };
  answers alone;
  for (const auto& r : requests_) alone.merge(serve(*runner_, {r}, plain));
  std::size_t tokens = 0;
  for (const auto& [id, t] : alone) tokens += t.size();
  EXPECT_GT(tokens, 10 * num_requests);
  expect_same(serve(*runner_, requests_, plain), alone, "together");
  expect_same(serve(*runner_, requests_,
                    [](engine::engine_options& o) {
                      o.max_prefill_chunk = 16;
                      o.max_num_seqs = 7;
                      o.speculation.enabled = false;
                    }),
              alone, "small chunks");
  expect_same(
      serve(*runner_, requests_, [](engine::engine_options& o) { o.speculation.always = true; }),
      alone, "with drafts");
  EXPECT_GT(accepted_, 0u);
  logits_only host(*runner_);
  expect_same(serve(host, requests_, plain), alone, "sampled by the host");
}

// Prompts that part in the middle of a block go on in a copy of it, and so does a second guess in one of the last block.
TEST_F(engine_test, exact_answers_are_the_same_out_of_copied_blocks) {
  const auto plain = [](engine::engine_options& o) {
    o.speculation.enabled = false;
    o.prefix_caching = false;
  };
  const auto e = make_engine(*runner_, [](engine::engine_options& o) {
    o.speculation.always = true;
    o.speculation.history_bytes = 1 << 20;
  });
  std::uint32_t partial_hits = 0;
  for (auto r : requests_) {
    if (r.sampling.prompt_logprobs) continue;
    const answers wanted = serve(*runner_, {r}, plain);
    const auto& tokens = wanted.at(r.id);
    std::vector<token_id> offered;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      offered.push_back(i % 3 == 0 ? (tokens[i].token + 1) % 500 : tokens[i].token);
    const auto first = static_cast<std::uint32_t>(r.prompt.size());
    for (const std::uint64_t more :
         {1000u, 2000u}) {  // the second answer is guessed from the first
      auto again = r;
      again.id = request_id{raw(r.id) + more};
      ASSERT_TRUE(e->add(again, engine::clock::now()).has_value());
      answers got;
      for (int steps = 0; e->has_work() && steps < 500; ++steps) {
        const std::size_t done = got[r.id].size();
        if (done < offered.size())
          e->offer_draft(again.id, 0, first + static_cast<std::uint32_t>(done),
                         {offered.begin() + static_cast<std::ptrdiff_t>(done), offered.end()});
        auto step = e->step(engine::clock::now());
        ASSERT_TRUE(step.has_value()) << to_string(step.error());
        for (auto& x : step->happened.tokens) append(got[r.id], x.tokens);
        for (auto& x : step->happened.finished) partial_hits += x.usage.cached_tokens % 16 != 0;
      }
      expect_same(got, wanted, "in copied blocks");
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(partial_hits, num_requests / 4);
  EXPECT_GT(e->stats().speculation.branches, 0u);
}

}  // namespace
}  // namespace troupe::gpu::cuda
