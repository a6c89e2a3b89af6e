// What guessing would bring, without the model: answers are recorded once, with the time that passes of 1, 2, 3 ... rows
// take; then engines decode them again on a device that knows the next token and takes the recorded time. A change to how
// guesses are found or chosen is judged in a second, over as many texts as one likes.
//
//   build/release/tests/bench_speculation passes MODEL [THREADS]               # the times alone
//   build/release/tests/bench_speculation record MODEL PROMPTS > recording     # one thread, CPU time
//   build/release/tests/bench_speculation replay recording [TOKENS] [RATIO]
//
// PROMPTS (speculation/held_out.txt) are recorded beside those of `troupe bench`, as workloads of their own. RATIO takes a
// row to cost so much of a pass, instead of the recorded times. `foreseen` is what the same guesses would bring to one who
// knew which of them are right.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "api/speculation_prompts.hpp"
#include "engine/engine.hpp"
#include "engine/philox.hpp"
#include "engine/sampler.hpp"
#include "engine/sampling_plan.hpp"
#include "engine/suffix_automaton.hpp"
#include "gpu/host/aligned_memory.hpp"
#include "gpu/model_runner.hpp"
#include "model/tokenizer.hpp"

namespace troupe::engine {
namespace {

constexpr std::uint32_t most_rows = 10, max_model_len = 1024, random_prompt = 256;
constexpr std::uint32_t context = 300;  // of the passes that are timed
constexpr int timed_passes = 40;        // of each number of rows

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}
template <class T>
T take(result<T> r) {
  if (!r) die(r.error().detail);
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

struct text {
  std::string workload;
  std::vector<token_id> prompt, answer;
  sampling_params sampling;
};
struct recording {
  std::vector<double> pass_ms = {0};  // by rows
  std::vector<text> texts;
};

// -- recording ---------------------------------------------------------------------------------------------------------

double ms_of(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

// The fastest quarter's end: neighbours on the memory bus slow some passes.
double typical(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 4];
}

// With the choice of the tokens, all numbers of rows in turn, so that what disturbs one disturbs the others.
std::vector<double> time_passes(gpu::model_runner& runner, std::uint32_t vocab_size,
                                bool cpu_time) {
  const clockid_t clock = cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  std::vector<block_id> table;
  for (block_id b = 0; b < runner.layout().blocks_for(max_model_len); ++b) table.push_back(b);
  sampler choose(vocab_size);
  std::vector<std::vector<double>> times(most_rows + 1);
  const auto pass = [&](std::uint32_t rows) {
    std::vector<token_id> tokens(rows);
    for (std::uint32_t i = 0; i < rows; ++i) tokens[i] = 1000 + 37 * i;
    const gpu::sequence_rows s{tokens, context, table, rows};
    const double start = ms_of(clock);
    const auto out = take(runner.forward({{&s, 1}}));
    sampling_plan plan;
    for (std::uint32_t i = 0; i < rows; ++i) {
      plan.clear();
      sampling_params greedy;
      greedy.temperature = 0;
      plan.add({greedy, context + i, context + i, {}, nullptr});
      choose.sample(out.logits.subspan(std::size_t{i} * vocab_size, vocab_size), plan.rows()[0]);
    }
    return ms_of(clock) - start;
  };
  for (int k = 0; k < timed_passes; ++k)
    for (std::uint32_t rows = 1; rows <= most_rows; ++rows) times[rows].push_back(pass(rows));
  std::vector<double> out = {0};
  for (std::uint32_t rows = 1; rows <= most_rows; ++rows) out.push_back(typical(times[rows]));
  return out;
}

std::vector<std::pair<std::string, std::string>> prompts(const char* more) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& p : api::speculation_prompts)
    for (const auto t : p.prompts) out.emplace_back(p.workload, t);
  std::ifstream in(more);
  if (!in) die(std::string("cannot read ") + more);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("=== "))
      out.emplace_back(line.substr(4) + ", held out", "");
    else if (!out.empty())
      out.back().second += (out.back().second.empty() ? "" : "\n") + line;
  }
  return out;
}

std::vector<token_id> answer_of(engine& e, const text& t, std::uint64_t id) {
  generation_request r;
  r.id = request_id{id};
  r.prompt = t.prompt;
  r.sampling = t.sampling;
  take(e.add(r, {}));
  std::vector<token_id> out;
  while (e.has_work()) {
    for (const auto& tokens : take(e.step({})).happened.tokens)
      for (const auto& token : tokens.tokens) out.push_back(token.token);
  }
  return out;
}

void record(const char* path, unsigned threads, const char* more) {
  const auto model = take(model::open_model(path));
  gpu::runner_options o;
  o.device = "cpu";
  o.num_threads = threads;
  const auto runner = take(gpu::make_runner(model, o));
  engine_options eo;
  eo.num_blocks = runner->layout().blocks_for(max_model_len) + 16;
  eo.vocab_size = model->config.vocab_size;
  eo.max_model_len = max_model_len;
  eo.prefix_caching = false;
  eo.speculation.enabled = false;
  const auto memory =
      take(gpu::host::aligned_memory::make(eo.num_blocks * runner->layout().block_bytes()));
  std::fill_n(memory.data(), memory.size(), std::byte{});
  take(runner->attach_kv({memory.data(), memory.size()}, eo.num_blocks));
  std::printf("pass_ms");
  for (const double ms : time_passes(*runner, eo.vocab_size, threads == 1))
    std::printf(" %.4f", ms);
  std::printf("\n");
  if (more == nullptr) return;
  const auto plain = take(engine::make(*runner, {memory.data(), memory.size()}, eo));
  const auto tokenizer = take(model::tokenizer::make(*model));
  std::uint64_t id = 0;
  const auto keep = [&](text t) {
    t.answer = answer_of(*plain, t, ++id);
    std::printf("%s|%g|%zu", t.workload.c_str(), double{t.sampling.temperature}, t.prompt.size());
    for (const token_id x : t.prompt) std::printf(" %u", x);
    for (const token_id x : t.answer) std::printf(" %u", x);
    std::printf("\n");
    std::fflush(stdout);
  };
  text t;
  t.sampling.max_tokens = 240;
  t.sampling.temperature = 0;
  for (const auto& [workload, prompt] : prompts(more)) {
    t.workload = workload;
    t.prompt = tokenizer->encode(
        "<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n", false, true);
    keep(t);
  }
  t.workload = "random text";
  t.sampling.temperature = 2;
  t.sampling.ignore_eos = true;
  for (std::uint64_t k = 0; k < 3; ++k) {
    t.sampling.seed = k;
    t.prompt.clear();
    for (std::uint32_t i = 0; i < random_prompt; ++i)
      t.prompt.push_back(
          static_cast<token_id>(uniform(k, 0, i, draw_purpose::token) * eo.vocab_size));
    keep(t);
  }
}

// -- replay ------------------------------------------------------------------------------------------------------------

// Knows one text, and how long passes take.
class recorded_device final : public gpu::model_runner {
 public:
  explicit recorded_device(std::vector<double> pass_ms) : pass_ms_(std::move(pass_ms)) {}

  const gpu::kv_layout& layout() const override { return layout_; }
  gpu::memory_kind kv_memory() const override { return gpu::memory_kind::host; }
  result<std::span<std::byte>> allocate_kv(std::uint32_t) override {
    return fail(ec::internal, "");
  }
  result<void> attach_kv(std::span<std::byte>, std::uint32_t) override { return {}; }
  std::size_t weight_bytes() const override { return 0; }
  std::string description() const override { return "recorded"; }

  void know(const std::vector<token_id>* tokens) { tokens_ = tokens; }
  double ms() const { return ms_; }
  std::uint64_t passes() const { return passes_; }

  result<void> submit(const gpu::batch& b) override {
    samples_.clear();
    for (const auto& s : b.sequences)
      for (std::size_t i = s.tokens.size() - s.num_logits; i < s.tokens.size(); ++i) {
        const std::size_t next = s.first_position + i + 1;
        gpu::row_sample sample;
        sample.token = next < tokens_->size() ? (*tokens_)[next] : 0;
        samples_.push_back(sample);
      }
    const std::size_t rows = b.num_rows(), known = pass_ms_.size() - 1;
    ms_ += rows <= known ? pass_ms_[rows]
                         : pass_ms_[known] + (pass_ms_[known] - pass_ms_[known - 1]) *
                                                 static_cast<double>(rows - known);
    ++passes_;
    return {};
  }
  result<gpu::step_output> collect() override { return gpu::step_output{{}, samples_}; }

 private:
  gpu::kv_layout layout_{1, 1, 2, 16, gpu::kv_dtype::f32};
  std::vector<double> pass_ms_;
  const std::vector<token_id>* tokens_ = nullptr;
  double ms_ = 0;
  std::uint64_t passes_ = 0;
  std::vector<gpu::row_sample> samples_;
};

recording read(const char* path) {
  std::ifstream in(path);
  if (!in) die(std::string("cannot read ") + path);
  recording out;
  std::string line;
  std::getline(in, line);
  std::istringstream times(line.substr(line.find(' ')));
  out.pass_ms.clear();
  for (double ms; times >> ms;) out.pass_ms.push_back(ms);
  while (std::getline(in, line)) {
    text t;
    t.workload = line.substr(0, line.find('|'));
    line = line.substr(line.find('|') + 1);
    std::istringstream numbers(line.substr(line.find('|') + 1));
    t.sampling.temperature = std::strtof(line.c_str(), nullptr);
    std::size_t num_prompt = 0;
    numbers >> num_prompt;
    for (token_id x; numbers >> x;)
      (t.prompt.size() < num_prompt ? t.prompt : t.answer).push_back(x);
    out.texts.push_back(std::move(t));
  }
  return out;
}

struct sums {
  double ms = 0, plain_ms = 0, foreseen_ms = 0;
  std::uint64_t tokens = 0, passes = 0;
};

// The least time that the guesses of the longest match allow: to him who knows which are right.
double foreseen_ms(const recording& r, const text& t, std::uint32_t most_tokens) {
  auto whole = t.prompt;
  whole.insert(whole.end(), t.answer.begin(),
               t.answer.begin() + std::min<std::ptrdiff_t>(std::ssize(t.answer), most_tokens));
  const std::size_t first = t.prompt.size() + 1;  // the prompt's pass brings the token before
  suffix_automaton seen;
  std::vector<std::size_t> right(whole.size() + 1);
  for (std::size_t p = 0; p < whole.size(); ++p) {
    const auto m = seen.longest();
    while (m.length > 0 && right[p] + 2 < r.pass_ms.size() && p + right[p] < whole.size() &&
           whole[m.next + right[p]] == whole[p + right[p]])
      ++right[p];
    seen.append(whole[p]);
  }
  std::vector<double> left(whole.size() + 1);  // from each position on
  for (std::size_t p = whole.size(); p-- > first;) {
    left[p] = r.pass_ms[1] + left[p + 1];
    for (std::size_t k = 1; k <= right[p]; ++k)
      left[p] = std::min(left[p], r.pass_ms[1 + k] + left[std::min(p + k + 1, whole.size())]);
  }
  return first < whole.size() ? left[first] : 0;
}

// One engine on such a device, which learns from text to text.
class replayer {
 public:
  explicit replayer(const std::vector<double>& pass_ms)
      : device_(pass_ms), plain_pass_ms_(pass_ms[1]) {
    engine_options o;
    o.num_blocks = 128;
    o.vocab_size = 1u << 20;
    o.max_model_len = max_model_len;
    o.prefix_caching = false;
    o.speculation.from_draft = false;
    o.pass_clock = [this] {
      return time_point(std::chrono::nanoseconds(static_cast<std::int64_t>(device_.ms() * 1e6)));
    };
    memory_ = take(gpu::host::aligned_memory::make(o.num_blocks * device_.layout().block_bytes()));
    engine_ = take(engine::make(device_, {memory_.data(), memory_.size()}, o));
  }

  // The time counts from the first token on, as in the bench.
  sums decode(const text& t, std::uint32_t most_tokens) {
    auto whole = t.prompt;
    whole.insert(whole.end(), t.answer.begin(), t.answer.end());
    device_.know(&whole);
    generation_request q;
    q.id = request_id{++last_id_};
    q.prompt = t.prompt;
    q.sampling.temperature = 0;
    q.sampling.max_tokens = std::min(most_tokens, static_cast<std::uint32_t>(t.answer.size()));
    take(engine_->add(q, {}));
    sums s;
    for (bool begun = false; engine_->has_work();) {
      const double ms = device_.ms();
      const auto passes = device_.passes();
      const auto report = take(engine_->step({}));
      if (begun) {
        for (const auto& event : report.happened.tokens) s.tokens += event.tokens.size();
        s.ms += device_.ms() - ms;
        s.passes += device_.passes() - passes;
      }
      begun = begun || !report.happened.tokens.empty();
    }
    s.plain_ms = static_cast<double>(s.tokens) * plain_pass_ms_;
    return s;
  }

 private:
  recorded_device device_;
  const double plain_pass_ms_;
  gpu::host::aligned_memory memory_;
  std::unique_ptr<engine> engine_;
  std::uint64_t last_id_ = 0;
};

void replay(const recording& r, std::uint32_t most_tokens) {
  replayer player(r.pass_ms);
  std::vector<std::string> order;
  for (const text& t : r.texts)
    if (std::find(order.begin(), order.end(), t.workload) == order.end()) {
      order.push_back(t.workload);
      player.decode(t, 24);  // as the bench warms up
    }
  for (const std::string& w : order) {
    sums sum;
    for (const text& t : r.texts) {
      if (t.workload != w) continue;
      const sums s = player.decode(t, most_tokens);
      sum.ms += s.ms;
      sum.plain_ms += s.plain_ms;
      sum.foreseen_ms += foreseen_ms(r, t, most_tokens);
      sum.tokens += s.tokens;
      sum.passes += s.passes;
    }
    std::printf("%-24s tokens %5u  a pass %.2f  faster %.3f  foreseen %.3f\n", w.c_str(),
                static_cast<unsigned>(sum.tokens),
                static_cast<double>(sum.tokens) / static_cast<double>(sum.passes),
                sum.plain_ms / sum.ms, sum.plain_ms / sum.foreseen_ms);
  }
}

}  // namespace
}  // namespace troupe::engine

int main(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  if (command == "passes") {
    const int threads = argc > 3 ? std::atoi(argv[3]) : 1;
    troupe::engine::record(argv[2], static_cast<unsigned>(threads), nullptr);
  } else if (command == "record" && argc > 3) {
    troupe::engine::record(argv[2], 1, argv[3]);
  } else if (command == "replay") {
    auto r = troupe::engine::read(argv[2]);
    if (argc > 4)
      for (std::size_t i = 1; i < r.pass_ms.size(); ++i)
        r.pass_ms[i] = 1 + std::atof(argv[4]) * static_cast<double>(i - 1);
    troupe::engine::replay(r, argc > 3 ? static_cast<std::uint32_t>(std::atoi(argv[3])) : 96);
  } else {
    std::fprintf(stderr,
                 "passes MODEL [THREADS], record MODEL PROMPTS, or replay FILE [TOKENS] [RATIO]\n");
    return 2;
  }
}
