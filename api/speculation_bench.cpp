#include "api/speculation_bench.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>
#include <new>

#include "api/draft_companion.hpp"
#include "api/speculation_prompts.hpp"
#include "engine/engine.hpp"
#include "engine/philox.hpp"
#include "model/tokenizer.hpp"

namespace troupe::api {
namespace {

using engine::time_point;

constexpr std::uint32_t max_model_len = 1024, random_prompt = 256;
constexpr std::uint64_t history_bytes = 8 << 20;

time_point cpu_clock() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return time_point(std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec));
}

struct arena_deleter {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

// One engine of each kind over the same blocks: nothing of an answer outlives it, as prefixes are not cached.
struct bench {
  std::function<time_point()> now;
  std::unique_ptr<std::byte, arena_deleter> memory;
  std::unique_ptr<engine::engine> plain;
  std::unique_ptr<draft_companion> draft;
  struct source {
    std::string name;
    std::unique_ptr<engine::engine> engine;
    bool drafts = false;
  };
  std::vector<source> sources;
  std::uint64_t next_id = 0;
};

struct workload {
  std::string name;
  std::vector<engine::generation_request> requests;
};

// What one engine made of some requests.
struct outcome {
  double decode_seconds = 0;
  std::uint64_t decoded = 0;  // tokens in that time
  std::vector<std::vector<token_id>> answers;
};

result<bench> make_bench(gpu::model_runner& runner, const model::loaded_model& model,
                         const engine::speculation_options& speculation,
                         std::uint32_t most_parallel, bool cpu_time, const draft_choice& draft) {
  bench b{cpu_time ? cpu_clock : engine::clock::now, nullptr, nullptr, nullptr, {}};
  const auto& layout = runner.layout();
  engine::engine_options o;
  o.num_blocks = most_parallel * layout.blocks_for(max_model_len) + 16;
  o.vocab_size = model.config.vocab_size;
  o.max_model_len = max_model_len;
  o.max_num_seqs = most_parallel;
  o.prefix_caching = false;
  o.pass_clock = b.now;
  o.speculation.max_tokens = 0;
  const std::size_t bytes = o.num_blocks * layout.block_bytes();
  std::span<std::byte> arena;
  if (runner.kv_memory() == gpu::memory_kind::host) {
    b.memory.reset(
        static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}, std::nothrow)));
    if (!b.memory)
      return fail(ec::out_of_memory, "not enough memory for the KV blocks of this test");
    arena = {b.memory.get(), bytes};
    std::fill(arena.begin(), arena.end(), std::byte{});
  } else {
    TROUPE_TRY(arena, runner.allocate_kv(o.num_blocks));
  }
  TROUPE_CHECK(runner.attach_kv(arena, o.num_blocks));
  TROUPE_TRY(b.plain, engine::engine::make(runner, arena, o));
  const auto add =
      [&](const char* name, bool text, bool drafts,
          const std::function<void(engine::speculation_options&)>& change) -> result<void> {
    o.speculation = speculation;
    o.speculation.from_text = text;
    o.speculation.from_draft = drafts;
    change(o.speculation);
    TROUPE_TRY(auto e, engine::engine::make(runner, arena, o));
    e->expect_drafts(drafts);
    b.sources.push_back({name, std::move(e), drafts});
    return {};
  };
  using options = engine::speculation_options;
  TROUPE_CHECK(add("text", true, false, [](options& s) { s.branches = false; }));
  TROUPE_CHECK(add("branches", true, false, [](options&) {}));
  TROUPE_CHECK(add("history", true, false, [](options& s) { s.history_bytes = history_bytes; }));
  if (!draft.model) return b;
  TROUPE_TRY(b.draft, draft_companion::make(draft.model, draft.runner, max_model_len, most_parallel,
                                            draft.delay));
  TROUPE_CHECK(add("draft", false, true, [](options& s) { s.try_draft = false; }));
  TROUPE_CHECK(add("both", true, true, [](options&) {}));
  return b;
}

// The time counts from the last request's first token: reading prompts is not what is compared.
result<outcome> run(bench& b, engine::engine& e, draft_companion* draft,
                    std::vector<engine::generation_request> requests) {
  outcome out;
  std::map<request_id, std::size_t> index;
  for (auto& r : requests) {
    r.id = request_id{++b.next_id};
    index[r.id] = index.size();
    if (draft != nullptr) draft->begin(r);
    TROUPE_CHECK(e.add(std::move(r), {}));
  }
  out.answers.resize(index.size());
  std::size_t begun = 0;
  while (e.has_work()) {
    const bool decoding = begun == index.size();
    const auto start = b.now();
    TROUPE_TRY(const engine::step_report report, e.step({}));
    if (draft != nullptr) draft->exchange(e, report.happened);
    if (decoding) out.decode_seconds += std::chrono::duration<double>(b.now() - start).count();
    for (const auto& t : report.happened.tokens) {
      auto& answer = out.answers[index.at(t.id)];
      if (answer.empty()) ++begun;
      for (const auto& token : t.tokens) answer.push_back(token.token);
      if (decoding) out.decoded += t.tokens.size();
    }
    for (const auto& f : report.happened.finished)
      if (f.reason == engine::finish_reason::error) return tl::unexpected(f.failure);
  }
  return out;
}

result<std::vector<workload>> make_workloads(const model::loaded_model& model,
                                             std::uint32_t tokens) {
  TROUPE_TRY(const auto tokenizer, model::tokenizer::make(model));
  std::vector<workload> out;
  engine::generation_request r;
  r.sampling.max_tokens = tokens;
  for (const bench_prompts& p : speculation_prompts) {
    out.push_back({std::string(p.workload), {}});
    for (const std::string_view text : p.prompts) {
      const std::string chat =
          "<|im_start|>user\n" + std::string(text) + "<|im_end|>\n<|im_start|>assistant\n";
      r.prompt = tokenizer->encode(chat, false, true);
      r.sampling.temperature = 0;
      out.back().requests.push_back(r);
    }
  }
  // Nothing to find: random tokens in, and a temperature at which random tokens come out.
  out.push_back({"random text", {}});
  for (std::uint64_t k = 0; k < 3; ++k) {
    r.prompt.clear();
    for (std::uint32_t i = 0; i < random_prompt; ++i)
      r.prompt.push_back(static_cast<token_id>(
          engine::uniform(k, 0, i, engine::draw_purpose::token) * model.config.vocab_size));
    r.sampling.temperature = 2;
    r.sampling.ignore_eos = true;
    r.sampling.seed = k;
    out.back().requests.push_back(r);
  }
  return out;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.size() % 2 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}

// Answers of one workload, `parallel` at a time; the copies of a prompt differ by their seed.
result<speculation_speed> compare(bench& b, bench::source& from, const workload& w,
                                  std::uint32_t parallel, std::uint32_t repetitions) {
  speculation_speed out;
  out.workload = w.name;
  out.source = from.name;
  out.parallel = parallel;
  std::vector<double> plain, speculative;
  const auto before = from.engine->stats();
  for (std::uint32_t r = 0; r < repetitions; ++r) {
    outcome sums[2];
    for (std::size_t first = 0; first < w.requests.size(); ++first) {
      std::vector<engine::generation_request> together;
      for (std::uint32_t i = 0; i < parallel; ++i) {
        together.push_back(w.requests[(first + i) % w.requests.size()]);
        together.back().sampling.sequence_index = i;
        // Answers are remembered within a repetition, in which nothing is asked twice.
        together.back().tenant = w.name + std::to_string(parallel) + "." + std::to_string(r);
      }
      std::vector<std::vector<token_id>> answers[2];
      for (const int kind : {0, 1}) {
        const int which = (kind + static_cast<int>(r + first)) % 2;  // neither always goes first
        TROUPE_TRY(const outcome one,
                   run(b, which ? *from.engine : *b.plain,
                       which && from.drafts ? b.draft.get() : nullptr, together));
        sums[which].decode_seconds += one.decode_seconds;
        sums[which].decoded += one.decoded;
        answers[which] = one.answers;
      }
      if (r > 0) continue;
      for (std::size_t i = 0; i < answers[0].size(); ++i) {
        ++out.answers;
        if (answers[0][i] == answers[1][i]) ++out.equal;
      }
    }
    plain.push_back(static_cast<double>(sums[0].decoded) / sums[0].decode_seconds);
    speculative.push_back(static_cast<double>(sums[1].decoded) / sums[1].decode_seconds);
  }
  const auto after = from.engine->stats();
  const auto generated = static_cast<double>(after.decode_tokens - before.decode_tokens);
  out.drafted =
      static_cast<double>(after.speculation.drafted - before.speculation.drafted) / generated;
  out.accepted =
      static_cast<double>(after.speculation.accepted - before.speculation.accepted) / generated;
  out.branches =
      static_cast<double>(after.speculation.branches - before.speculation.branches) / generated;
  out.branches_won =
      static_cast<double>(after.speculation.branches_won - before.speculation.branches_won) /
      generated;
  out.plain = median(plain);
  out.speculative = median(speculative);
  return out;
}

}  // namespace

result<std::vector<speculation_speed>> bench_speculation(
    gpu::model_runner& runner, const model::loaded_model& model,
    const engine::speculation_options& speculation, std::uint32_t tokens,
    const std::vector<std::uint32_t>& parallel, std::uint32_t repetitions, bool cpu_time,
    const draft_choice& draft) {
  const std::uint32_t most = std::max(1u, *std::max_element(parallel.begin(), parallel.end()));
  TROUPE_TRY(const auto workloads, make_workloads(model, std::min(tokens, max_model_len - 400)));
  TROUPE_TRY(bench b, make_bench(runner, model, speculation, most, cpu_time, draft));
  std::vector<speculation_speed> out;
  for (const workload& w : workloads) {  // warm up: costs are learned, pages are touched
    auto short_one = w.requests.front();
    short_one.sampling.max_tokens = 24;
    TROUPE_CHECK(run(b, *b.plain, nullptr, {short_one}));
    for (auto& s : b.sources)
      TROUPE_CHECK(run(b, *s.engine, s.drafts ? b.draft.get() : nullptr, {short_one}));
  }
  for (const std::uint32_t p : parallel)
    for (const workload& w : workloads)
      for (auto& from : b.sources) {
        TROUPE_TRY(out.emplace_back(), compare(b, from, w, p, repetitions));
      }
  return out;
}

}  // namespace troupe::api
