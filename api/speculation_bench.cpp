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
                         const speculation_test& test, std::uint32_t most_parallel) {
  const draft_choice& draft = test.draft;
  bench b{test.cpu_time ? cpu_clock : engine::clock::now, nullptr, nullptr, nullptr, {}};
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
    o.speculation = test.speculation;
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

// What came of one workload, so many prompts at a time.
struct comparison {
  const workload* of = nullptr;
  std::uint32_t parallel = 1;
  struct sum {
    double seconds = 0;
    std::uint64_t decoded = 0;
    double speed() const { return static_cast<double>(decoded) / seconds; }
  };
  std::vector<std::vector<sum>> sums;  // [plain, then each source][prompts]
  std::vector<speculation_speed> out;  // [sources]
};

void count_guesses(speculation_speed& out, const engine::engine_stats& before,
                   const engine::engine_stats& after) {
  const engine::speculation_stats &b = before.speculation, &a = after.speculation;
  out.drafted += static_cast<double>(a.drafted - b.drafted);
  out.accepted += static_cast<double>(a.accepted - b.accepted);
  out.branches += static_cast<double>(a.branches - b.branches);
  out.branches_won += static_cast<double>(a.branches_won - b.branches_won);
}

// One prompt with those behind it, plain and with each source; what goes first changes. The copies of a prompt differ by their
// seed.
result<void> compare(bench& b, comparison& c, std::size_t prompt, std::uint32_t repetition) {
  const workload& w = *c.of;
  std::vector<engine::generation_request> together;
  for (std::uint32_t i = 0; i < c.parallel; ++i) {
    together.push_back(w.requests[(prompt + i) % w.requests.size()]);
    together.back().sampling.sequence_index = i;
    // Answers are remembered within a repetition, in which nothing is asked twice.
    together.back().tenant = w.name + std::to_string(c.parallel) + "." + std::to_string(repetition);
  }
  std::vector<std::vector<std::vector<token_id>>> answers(c.sums.size());
  for (std::size_t i = 0; i < c.sums.size(); ++i) {
    const std::size_t which = (i + repetition + prompt) % c.sums.size();
    bench::source* const from = which == 0 ? nullptr : &b.sources[which - 1];
    engine::engine& e = from ? *from->engine : *b.plain;
    const auto before = e.stats();
    TROUPE_TRY(outcome one, run(b, e, from && from->drafts ? b.draft.get() : nullptr, together));
    if (from) count_guesses(c.out[which - 1], before, e.stats());
    c.sums[which][prompt].seconds += one.decode_seconds;
    c.sums[which][prompt].decoded += one.decoded;
    answers[which] = std::move(one.answers);
  }
  if (repetition > 0) return {};
  for (std::size_t which = 1; which < answers.size(); ++which)
    for (std::size_t i = 0; i < answers[0].size(); ++i) {
      ++c.out[which - 1].answers;
      if (answers[0][i] == answers[which][i]) ++c.out[which - 1].equal;
    }
  return {};
}

comparison begin(const bench& b, const workload& w, std::uint32_t parallel) {
  comparison c;
  c.of = &w;
  c.parallel = parallel;
  c.sums.assign(b.sources.size() + 1, std::vector<comparison::sum>(w.requests.size()));
  for (const bench::source& from : b.sources) {
    c.out.emplace_back();
    c.out.back().workload = w.name;
    c.out.back().source = from.name;
    c.out.back().parallel = parallel;
    c.out.back().prompts = static_cast<std::uint32_t>(w.requests.size());
  }
  return c;
}

void finish(comparison& c) {
  const auto total = [](const std::vector<comparison::sum>& of) {
    comparison::sum t;
    for (const comparison::sum& one : of) {
      t.seconds += one.seconds;
      t.decoded += one.decoded;
    }
    return t;
  };
  for (std::size_t i = 0; i < c.out.size(); ++i) {
    speculation_speed& out = c.out[i];
    std::vector<double> ratios;
    for (std::size_t p = 0; p < c.sums[0].size(); ++p)
      if (c.sums[0][p].decoded > 0 && c.sums[i + 1][p].decoded > 0)
        ratios.push_back(c.sums[i + 1][p].speed() / c.sums[0][p].speed());
    if (ratios.empty()) continue;  // answers of one token
    const auto [lowest, highest] = std::minmax_element(ratios.begin(), ratios.end());
    out.lowest = *lowest;
    out.highest = *highest;
    out.median = median(ratios);
    const auto all = total(c.sums[i + 1]);
    out.plain = total(c.sums[0]).speed();
    out.speculative = all.speed();
    const auto generated = static_cast<double>(all.decoded);
    for (double* x : {&out.drafted, &out.accepted, &out.branches, &out.branches_won})
      *x /= generated;
  }
}

// Costs are learned, pages are touched.
result<void> warm_up(bench& b, const std::vector<workload>& workloads) {
  for (const workload& w : workloads) {
    auto short_one = w.requests.front();
    short_one.sampling.max_tokens = 24;
    TROUPE_CHECK(run(b, *b.plain, nullptr, {short_one}));
    for (auto& s : b.sources)
      TROUPE_CHECK(run(b, *s.engine, s.drafts ? b.draft.get() : nullptr, {short_one}));
  }
  return {};
}

}  // namespace

result<std::vector<speculation_speed>> bench_speculation(gpu::model_runner& runner,
                                                         const model::loaded_model& model,
                                                         const speculation_test& test) {
  const std::uint32_t most =
      std::max(1u, *std::max_element(test.parallel.begin(), test.parallel.end()));
  TROUPE_TRY(const auto workloads,
             make_workloads(model, std::min(test.tokens, max_model_len - 400)));
  TROUPE_TRY(bench b, make_bench(runner, model, test, most));
  TROUPE_CHECK(warm_up(b, workloads));
  std::vector<comparison> all;
  std::size_t prompts = 0, done = 0;
  for (const std::uint32_t p : test.parallel)
    for (const workload& w : workloads) {
      all.push_back(begin(b, w, p));
      prompts += w.requests.size();
    }
  const auto start = engine::clock::now();
  for (std::uint32_t r = 0; r < test.repetitions; ++r) {
    if (r > 0 && (engine::clock::now() - start) / r * (r + 1) > test.most_time) break;
    for (comparison& c : all)
      for (std::size_t p = 0; p < c.of->requests.size(); ++p) {
        test.progress("repetition " + std::to_string(r + 1) + ", " + c.of->name + ": " +
                      std::to_string(100 * (done++ % prompts) / prompts) + " %");
        TROUPE_CHECK(compare(b, c, p, r));
      }
  }
  std::vector<speculation_speed> out;
  for (comparison& c : all) {
    finish(c);
    out.insert(out.end(), c.out.begin(), c.out.end());
  }
  return out;
}

}  // namespace troupe::api
