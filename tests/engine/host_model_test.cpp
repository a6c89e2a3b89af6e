// The real thing in one room: the default model on the host device. Answers must not depend on how the engine cut and
// mixed the work.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "engine/draft_engine.hpp"
#include "model/model.hpp"
#include "model/tokenizer.hpp"
#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

std::filesystem::path model_path() {
  if (const char* path = std::getenv("TROUPE_TEST_MODEL")) return path;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home ? home : "") /
         ".cache/troupe/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

// A device with an arena for its blocks.
struct device {
  std::unique_ptr<gpu::model_runner> runner;
  std::vector<std::byte> storage;
  std::span<std::byte> arena;
};

struct served : device {
  std::unique_ptr<troupe::engine::engine> engine;
};

device make_device(std::shared_ptr<const model::loaded_model> m, std::uint32_t num_blocks) {
  device d;
  gpu::runner_options r;
  r.device = "cpu";
  r.num_threads = 2;
  r.max_batch_tokens = 512;
  auto runner = gpu::make_runner(m, r);
  EXPECT_TRUE(runner) << (runner ? "" : to_string(runner.error()));
  d.runner = std::move(*runner);
  const std::size_t bytes = num_blocks * d.runner->layout().block_bytes();
  d.storage.resize(bytes + 64);
  const std::size_t offset = 64 - reinterpret_cast<std::uintptr_t>(d.storage.data()) % 64;
  d.arena = std::span(d.storage).subspan(offset, bytes);
  EXPECT_TRUE(d.runner->attach_kv(d.arena, num_blocks));
  return d;
}

class host_model : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto opened = model::open_model(model_path());
    ASSERT_TRUE(opened) << to_string(opened.error()) << "; get it with deploy/get-model";
    model_ = *opened;
  }
  static void TearDownTestSuite() { model_.reset(); }

  static served serve(const std::function<void(engine_options&)>& change) {
    engine_options o;
    o.num_blocks = 128;
    o.vocab_size = model_->config.vocab_size;
    o.max_model_len = 2048;
    o.kv_identity = identity;
    change(o);
    served s{make_device(model_, o.num_blocks), nullptr};
    auto made = troupe::engine::engine::make(*s.runner, s.arena, o);
    EXPECT_TRUE(made) << (made ? "" : to_string(made.error()));
    s.engine = std::move(*made);
    return s;
  }

  // Prompts of ordinary words: token ids of any tokenizer's middle range do.
  static generation_request prompt(std::uint64_t id, std::uint32_t length) {
    auto r = make_request(id, make_prompt(id, length, 20'000), 16);
    r.sampling.ignore_eos = true;
    r.sampling.logprobs = 2;
    if (id % 2 == 0) {
      r.sampling.temperature = 0.8f;
      r.sampling.top_p = 0.9f;
      r.sampling.seed = id;
    }
    return r;
  }

  static std::map<request_id, std::vector<token_output>> run(
      served& s, const std::vector<generation_request>& requests) {
    std::map<request_id, std::vector<token_output>> outputs;
    for (const auto& r : requests) EXPECT_TRUE(s.engine->add(r, {}));
    for (int i = 0; i < 2000 && s.engine->has_work(); ++i) {
      auto report = s.engine->step({});
      EXPECT_TRUE(report) << (report ? "" : to_string(report.error()));
      if (!report) break;
      for (auto& e : report->happened.tokens)
        outputs[e.id].insert(outputs[e.id].end(), e.tokens.begin(), e.tokens.end());
      EXPECT_EQ(s.engine->check_invariants(), "");
    }
    return outputs;
  }

  static void expect_equal(const std::vector<token_output>& a, const std::vector<token_output>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].token, b[i].token) << "token " << i;
      EXPECT_EQ(a[i].logprob, b[i].logprob) << "token " << i;
    }
  }

  static std::shared_ptr<const model::loaded_model> model_;
};
std::shared_ptr<const model::loaded_model> host_model::model_;

TEST_F(host_model, answers_do_not_depend_on_chunks_batches_caches_or_preemption) {
  std::vector<generation_request> requests;
  for (std::uint64_t id = 1; id <= 4; ++id)
    requests.push_back(prompt(id, static_cast<std::uint32_t>(15 + 40 * id)));
  std::map<request_id, std::vector<token_output>> alone;
  {
    auto s = serve([](engine_options& o) { o.prefix_caching = false; });
    for (const auto& r : requests) alone.merge(run(s, {r}));
  }
  ASSERT_EQ(alone.size(), requests.size());
  for (const auto& [id, tokens] : alone) ASSERT_EQ(tokens.size(), 16u);
  const auto compare = [&](served s, const char* what) {
    SCOPED_TRACE(what);
    const auto together = run(s, requests);
    for (const auto& r : requests) {
      SCOPED_TRACE("request " + std::to_string(raw(r.id)));
      expect_equal(together.at(r.id), alone.at(r.id));
    }
    return s.engine->stats();
  };
  compare(serve([](engine_options&) {}), "together");
  compare(serve([](engine_options& o) {
            o.max_prefill_chunk = 16;
            o.max_num_batched_tokens = 90;
          }),
          "small chunks");
  const auto stats = compare(serve([](engine_options& o) { o.num_blocks = 20; }), "a tiny arena");
  EXPECT_GT(stats.prefill_tokens, 0u);
  auto s = serve([](engine_options&) {});
  run(s, requests);
  std::vector<generation_request> again = requests;
  const auto cached = run(s, again);
  for (const auto& r : again) expect_equal(cached.at(r.id), alone.at(r.id));
  EXPECT_GT(s.engine->stats().prefix_hits, 300u);
  // Prompts that go another way in the middle of a block: what is before it is copied.
  for (generation_request& r : again) r.prompt[29] = r.prompt[29] == 100 ? 101 : 100;
  const std::uint64_t hits = s.engine->stats().prefix_hits;
  const auto copied = run(s, again);
  auto plain = serve([](engine_options& o) { o.prefix_caching = false; });
  const auto computed = run(plain, again);
  for (const auto& r : again) expect_equal(copied.at(r.id), computed.at(r.id));
  EXPECT_EQ(s.engine->stats().prefix_hits, hits + 4 * 29);
}

// Texts that repeat themselves, so that there are guesses, right and wrong ones; half of them sampled.
// TROUPE_SPECULATION_PROMPTS=200 soaks.
TEST_F(host_model, speculation_changes_no_answer) {
  const char* wanted = std::getenv("TROUPE_SPECULATION_PROMPTS");
  const std::uint64_t prompts = wanted ? std::strtoull(wanted, nullptr, 10) : 8;
  auto plain = serve([](engine_options& o) { o.speculation.enabled = false; });
  auto speculative = serve([](engine_options& o) { o.speculation.always = true; });
  for (std::uint64_t id = 1; id <= prompts && !HasFailure(); id += 4) {
    std::vector<generation_request> requests;
    for (std::uint64_t k = id; k < id + 4; ++k) {
      auto r = prompt(k, 12);
      const std::vector<token_id> once = r.prompt;
      for (int i = 0; i < 3; ++i) r.prompt.insert(r.prompt.end(), once.begin(), once.end());
      r.sampling.max_tokens = 48;
      if (k % 4 == 0) r.sampling.repetition_penalty = 1.05f;
      requests.push_back(std::move(r));
    }
    const auto expected = run(plain, requests);
    const auto got = run(speculative, requests);
    for (const auto& r : requests) {
      SCOPED_TRACE("request " + std::to_string(raw(r.id)));
      expect_equal(got.at(r.id), expected.at(r.id));
    }
  }
  const auto s = speculative.engine->stats().speculation;
  EXPECT_GT(s.accepted, 10 * prompts);
  EXPECT_GT(s.drafted - s.accepted, 2 * prompts);
}

// A draft of some of the model's own layers, told of every token and followed by every guess: greedy answers to 200 prompts
// are those of plain decoding, with guesses from the text beside it. TROUPE_DRAFT_PROMPTS asks for another number.
TEST_F(host_model, a_draft_changes_no_answer) {
  const char* wanted = std::getenv("TROUPE_DRAFT_PROMPTS");
  const std::uint64_t prompts = wanted ? std::strtoull(wanted, nullptr, 10) : 200;
  constexpr std::uint64_t together = 20;
  auto some_layers = std::make_shared<model::loaded_model>(*model_);
  some_layers->weights.layers.resize(4);
  some_layers->config.num_hidden_layers = 4;
  draft_options d;
  d.num_blocks = 128;
  d.vocab_size = model_->config.vocab_size;
  d.max_model_len = 2048;
  d.ahead = 4;
  auto small = make_device(some_layers, d.num_blocks);
  auto draft = draft_engine::make(*small.runner, d);
  ASSERT_TRUE(draft);
  auto plain = serve([](engine_options& o) { o.speculation.enabled = false; });
  auto speculative = serve([](engine_options& o) {
    o.speculation.always = true;
    o.speculation.max_tokens = 3;
  });
  for (std::uint64_t id = 1; id <= prompts && !HasFailure(); id += together) {
    std::vector<generation_request> requests;
    for (std::uint64_t k = id; k < id + together; ++k) {
      requests.push_back(prompt(2 * k + 1, 6 + k % 5));
      requests.back().sampling.max_tokens = 12;
      requests.back().sampling.logprobs.reset();
    }
    const auto expected = run(plain, requests);
    std::map<request_id, std::vector<token_output>> got;
    for (const auto& r : requests) {
      ASSERT_TRUE(speculative.engine->add(r, {}));
      const draft_engine::beginning start{static_cast<std::uint32_t>(r.prompt.size()), r.sampling};
      ASSERT_TRUE((*draft)->follow(raw(r.id), 0, r.prompt, &start));
    }
    while (speculative.engine->has_work()) {
      for (int i = 0; i < 2 && (*draft)->has_work(); ++i) {
        auto runs = (*draft)->step();
        ASSERT_TRUE(runs);
        for (auto& r : *runs)
          speculative.engine->offer_draft(request_id{r.key}, 0, r.first, r.tokens, r.sureness);
      }
      auto report = speculative.engine->step({});
      ASSERT_TRUE(report);
      for (auto& e : report->happened.tokens) {
        std::vector<token_id> news;
        for (const auto& t : e.tokens) news.push_back(t.token);
        const std::uint64_t key = raw(e.id);
        const auto first = requests[(key - 1) / 2 - id].prompt.size() + got[e.id].size();
        ASSERT_EQ((*draft)->follow(key, static_cast<std::uint32_t>(first), news, nullptr).value(),
                  std::nullopt);
        got[e.id].insert(got[e.id].end(), e.tokens.begin(), e.tokens.end());
      }
      for (const auto& f : report->happened.finished) (*draft)->drop(raw(f.id));
      ASSERT_EQ((*draft)->check_invariants(), "");
    }
    for (const auto& r : requests) {
      SCOPED_TRACE("request " + std::to_string(raw(r.id)));
      expect_equal(got.at(r.id), expected.at(r.id));
    }
  }
  const auto s = speculative.engine->stats().speculation;
  EXPECT_GT(s.draft_drafted, prompts);
  EXPECT_GT(s.draft_accepted, 0u);
  EXPECT_GT(s.drafted, s.draft_drafted) << "the text was asked too";
}

TEST_F(host_model, knows_the_capital_of_france) {
  auto tokenizer = model::tokenizer::make(*model_);
  ASSERT_TRUE(tokenizer) << to_string(tokenizer.error());
  auto s =
      serve([&](engine_options& o) { o.end_of_generation = (*tokenizer)->end_of_generation(); });
  const auto ids =
      (*tokenizer)
          ->encode(
              "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
              false, true);
  const auto outputs = run(s, {make_request(1, ids, 40)});
  std::vector<token_id> text;
  for (const auto& t : outputs.at(request_id{1})) text.push_back(t.token);
  EXPECT_NE((*tokenizer)->decode(text).find("Paris"), std::string::npos)
      << (*tokenizer)->decode(text);
  EXPECT_LT(text.size(), 40u) << "it ends by itself";
}

}  // namespace
}  // namespace troupe::engine::testing
