// Seeded random traces over two engines, one that computes prompts and one that decodes, with everything that a cluster
// does to them: mixed batches, tiny arenas, cancels, deadlines, late and lost and repeated messages, pulls of blocks that
// were reused meanwhile, leases that run out. After every call the books of both must balance; in the end every request
// has the answer, or a prefix of it, that it has alone.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <random>

#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

using std::chrono::milliseconds;

struct trace_options {
  std::uint32_t decode_blocks = 24, prefill_blocks = 24;
  bool prefix_caching = true;
  std::uint32_t max_num_seqs = 6;
  bool drafts = false;   // somebody guesses, mostly right
  bool samples = false;  // the devices sample themselves
};

class trace {
 public:
  trace(std::uint64_t seed, const trace_options& options)
      : random_(seed),
        drafts_(options.drafts),
        decode_(options.decode_blocks, {.samples = options.samples}, changes(options)),
        prefill_(options.prefill_blocks, {.samples = options.samples}, changes(options)) {}

  void run(int num_steps) {
    for (int i = 0; i < num_steps && !::testing::Test::HasFailure(); ++i) act();
    drain();
  }
  std::uint64_t preemptions() const { return decode_.engine->stats().preemptions; }
  std::uint64_t fence_failures() const { return decode_.engine->stats().fence_failures; }
  std::uint64_t completed() const { return completed_; }
  speculation_stats speculation() const { return decode_.engine->stats().speculation; }

 private:
  struct message {
    enum kind { blocks, first_token, failed, release } what;
    request_id id;
    blocks_ready_event ready;
    token_output token;
  };
  struct flight {
    pull_plan plan;
  };

  static std::function<void(engine_options&)> changes(const trace_options& t) {
    return [t](engine_options& o) {
      o.prefix_caching = t.prefix_caching;
      o.max_num_seqs = t.max_num_seqs;
      o.max_num_batched_tokens = 24;
      o.max_prefill_chunk = 12;
      o.max_waiting = 12;
      o.speculation.always = t.drafts;
      o.lease = milliseconds(60);
      o.inter_token_target = std::chrono::microseconds(1000);
    };
  }

  std::uint64_t dice(std::uint64_t n) { return random_() % n; }
  bool chance(int percent) { return dice(100) < static_cast<std::uint64_t>(percent); }

  void act() {
    if (drafts_ && chance(30)) offer_draft();
    switch (dice(10)) {
      case 0:
        submit();
        break;
      case 1:
      case 2:
      case 3:
        collect(decode_);
        break;
      case 4:
      case 5:
        collect(prefill_);
        break;
      case 6:
        deliver_message();
        break;
      case 7:
        end_flight();
        break;
      case 8:
        if (chance(12))
          cancel_one();
        else
          deliver_message();
        break;
      case 9:
        decode_.now = prefill_.now = decode_.now + milliseconds(dice(8));
        break;
    }
    ASSERT_EQ(decode_.engine->check_invariants(), "");
    ASSERT_EQ(prefill_.engine->check_invariants(), "");
  }

  generation_request random_request() {
    generation_request r;
    r.id = request_id{++last_id_};
    // A few families of prompts, so that prefixes are shared.
    const auto whole = make_prompt(dice(5), 40);
    r.prompt.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(1 + dice(40)));
    if (chance(30)) r.prompt.push_back(static_cast<token_id>(2 + dice(38)));
    // And prompts of equal blocks after different prefixes.
    if (chance(30)) {
      r.prompt.clear();
      for (std::uint64_t blocks = 1 + dice(8); blocks > 0; --blocks) {
        const auto block = make_prompt(100 + dice(2), 4);
        r.prompt.insert(r.prompt.end(), block.begin(), block.end());
      }
    }
    auto& p = r.sampling;
    p.max_tokens = static_cast<std::uint32_t>(1 + dice(24));
    p.temperature = chance(50) ? 0.0f : 0.8f;
    p.seed = dice(4);
    if (chance(20)) p.top_k = 5;
    if (chance(20)) p.top_p = 0.8f;
    if (chance(20)) p.repetition_penalty = 1.4f;
    if (chance(20)) p.frequency_penalty = 0.7f;
    if (chance(20)) p.min_tokens = p.max_tokens / 2;
    if (chance(15)) p.logprobs = 2;
    if (chance(10)) p.prompt_logprobs = 1;
    if (chance(10)) p.stop_token_ids = {static_cast<token_id>(dice(40))};
    if (chance(15)) r.cache_salt = "salt";
    if (chance(6)) r.deadline = decode_.now + milliseconds(dice(200));
    if (chance(20)) {
      const auto before = run_alone(r).ids();
      r.output.assign(before.begin(),
                      before.begin() + static_cast<std::ptrdiff_t>(dice(before.size() + 1)));
    }
    return r;
  }

  void submit() {
    const auto r = random_request();
    bool added = false;
    if (chance(60)) {
      added = decode_.engine->add_remote(r, decode_.now).has_value();
      if (added) {
        auto at_peer = r;
        at_peer.prefill_only = true;
        if (chance(10) || !prefill_.engine->add(at_peer, prefill_.now))
          messages_.push_back({message::failed, r.id, {}, {}});
      }
    }
    if (!added) added = decode_.engine->add(r, decode_.now).has_value();
    if (added) requests_.emplace(r.id, r);
  }

  // A step of one engine; what the prefill engine tells becomes messages.
  void collect(engine_fixture& f) {
    const step_report report = f.step();
    if (&f != &prefill_) return;
    for (const auto& e : report.happened.tokens) {
      post({message::first_token, e.id, {}, e.tokens.front()});
    }
    for (const auto& e : report.happened.blocks_ready) {
      post({message::blocks, e.id, e, {}});
      if (e.last && chance(70)) messages_.push_back({message::release, e.id, {}, {}});
    }
    for (const auto& e : report.happened.finished)
      if (e.reason != finish_reason::stop) messages_.push_back({message::failed, e.id, {}, {}});
  }

  // Lost, once, or twice; a lost message is followed by the failure that a deadline would raise.
  void post(const message& m) {
    if (chance(7)) {
      messages_.push_back({message::failed, m.id, {}, {}});
      return;
    }
    messages_.push_back(m);
    if (chance(15)) messages_.push_back(m);
  }

  void deliver_message() {
    if (messages_.empty()) return;
    const auto at = messages_.begin() +
                    static_cast<std::ptrdiff_t>(dice(std::min<std::size_t>(messages_.size(), 6)));
    const message m = std::move(*at);
    messages_.erase(at);
    switch (m.what) {
      case message::blocks: {
        auto plan = decode_.engine->start_pull(m.id, 0, m.ready.first_block, m.ready.blocks);
        if (!plan.pieces.empty()) flights_.push_back({std::move(plan)});
        break;
      }
      case message::first_token:
        decode_.engine->remote_first_token(m.id, 0, m.token, decode_.now);
        break;
      case message::failed:
        decode_.engine->remote_failed(m.id, 0, decode_.now);
        break;
      case message::release:
        prefill_.engine->release(m.id, prefill_.now);
        break;
    }
  }

  // The bytes move now, whatever has become of the blocks at either end since the pull was planned.
  void end_flight() {
    if (flights_.empty()) return;
    const auto at = flights_.begin() + static_cast<std::ptrdiff_t>(dice(flights_.size()));
    const flight f = std::move(*at);
    flights_.erase(at);
    const std::size_t sealed_bytes =
        decode_.runner.layout().payload_bytes() + transport::fence_bytes;
    std::vector<bool> ok;
    for (const pull_piece& p : f.plan.pieces) {
      const auto to = decode_.runner.block(p.local);
      std::ranges::copy(prefill_.runner.block(p.remote), to.begin());
      if (chance(4)) to[dice(sealed_bytes)] ^= std::byte{16};
      ok.push_back(
          transport::verify(to.first(sealed_bytes), tag_of(p.expected, incarnation{77}, identity))
              .has_value());
    }
    decode_.engine->pull_ended(f.plan.id, ok, 1, {}, decode_.now);
    if (chance(10)) decode_.engine->pull_ended(f.plan.id, ok, 1, {}, decode_.now);
  }

  void cancel_one() {
    if (last_id_ == 0) return;
    const request_id id{1 + dice(last_id_)};
    if (chance(70)) decode_.engine->cancel(id, decode_.now);
    if (chance(50)) prefill_.engine->cancel(id, prefill_.now);
  }

  // Everything comes to rest within a bound, and nothing is left.
  void drain() {
    for (int i = 0; i < 3000 && !::testing::Test::HasFailure(); ++i) {
      if (messages_.empty() && flights_.empty() && i > 50)
        for (const auto& [id, r] : requests_) decode_.engine->remote_failed(id, 0, decode_.now);
      deliver_message();
      end_flight();
      collect(prefill_);
      collect(decode_);
      decode_.now = prefill_.now = decode_.now + milliseconds(1);
    }
    for (engine_fixture* f : {&decode_, &prefill_}) {
      const engine_stats s = f->engine->stats();
      EXPECT_EQ(s.running + s.waiting + s.waiting_remote + s.held, 0u);
      EXPECT_EQ(s.blocks_free + s.blocks_cached, f->runner.num_blocks());
      EXPECT_FALSE(f->engine->has_work());
    }
    for (const auto& [id, r] : requests_) check_answer(r);
  }

  void check_answer(const generation_request& r) {
    SCOPED_TRACE("request " + std::to_string(raw(r.id)));
    const answer expected = run_alone(r);
    const answer& got = decode_.of(raw(r.id));
    ASSERT_TRUE(got.end) << "it never ended";
    ASSERT_TRUE(expected.end);
    ASSERT_LE(got.tokens.size(), expected.tokens.size());
    for (std::size_t i = 0; i < got.tokens.size(); ++i) {
      EXPECT_EQ(got.tokens[i].index, r.output.size() + i);
      EXPECT_EQ(got.tokens[i].token, expected.tokens[i].token) << "token " << i;
      EXPECT_EQ(got.tokens[i].logprob, expected.tokens[i].logprob);
    }
    const bool cut =
        got.end->reason == finish_reason::abort || got.end->reason == finish_reason::error;
    if (cut) return;
    ++completed_;
    EXPECT_EQ(got.tokens.size(), expected.tokens.size());
    EXPECT_EQ(got.end->reason, expected.end->reason);
    EXPECT_EQ(got.end->usage.completion_tokens, expected.end->usage.completion_tokens);
    ASSERT_EQ(got.prompt_logprobs.size(), expected.prompt_logprobs.size());
    for (std::size_t i = 0; i < got.prompt_logprobs.size(); ++i)
      EXPECT_EQ(got.prompt_logprobs[i].logprob, expected.prompt_logprobs[i].logprob);
  }

  // A draft: what the request will answer, with a mistake here and there; sometimes for other positions, or nonsense.
  void offer_draft() {
    if (requests_.empty()) return;
    auto at = requests_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(dice(requests_.size())));
    const generation_request& r = at->second;
    if (decode_.of(raw(r.id)).end) return;
    auto [known, is_new] = expected_.try_emplace(r.id);
    if (is_new) known->second = run_alone(r).ids();
    auto tokens = known->second;
    for (token_id& t : tokens)
      if (chance(8)) t = static_cast<token_id>(dice(44));
    const auto skip = std::min(tokens.size(), decode_.of(raw(r.id)).tokens.size() + dice(2));
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(skip));
    const auto first =
        static_cast<std::uint32_t>(r.prompt.size() + r.output.size() + skip - (chance(5) ? 1 : 0));
    decode_.engine->offer_draft(r.id, 0, first, std::move(tokens));
  }

  std::mt19937_64 random_;
  const bool drafts_;
  std::map<request_id, std::vector<token_id>> expected_;
  engine_fixture decode_, prefill_;
  std::uint64_t last_id_ = 0, completed_ = 0;
  std::map<request_id, generation_request> requests_;
  std::deque<message> messages_;
  std::vector<flight> flights_;
};

class random_trace : public ::testing::TestWithParam<trace_options> {};

TEST_P(random_trace, every_answer_is_the_one_it_has_alone) {
  // TROUPE_TRACE_SEEDS=1000 soaks.
  const char* wanted = std::getenv("TROUPE_TRACE_SEEDS");
  const std::uint64_t seeds = wanted ? std::strtoull(wanted, nullptr, 10) : 20;
  std::uint64_t completed = 0, preemptions = 0, fence_failures = 0, accepted = 0, rejected = 0;
  for (std::uint64_t seed = 1; seed <= seeds && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    trace t(seed, GetParam());
    t.run(1500);
    completed += t.completed();
    preemptions += t.preemptions();
    fence_failures += t.fence_failures();
    accepted += t.speculation().accepted;
    rejected += t.speculation().drafted - t.speculation().accepted;
  }
  // The trace reached what it is for.
  EXPECT_GT(completed, 500u);
  EXPECT_GT(preemptions, 20u);
  EXPECT_GT(fence_failures, 5u);
  if (!GetParam().drafts) return;
  EXPECT_GT(accepted, 500u);
  EXPECT_GT(rejected, 200u);
}

INSTANTIATE_TEST_SUITE_P(
    engines, random_trace,
    ::testing::Values(trace_options{}, trace_options{.prefix_caching = false},
                      trace_options{.decode_blocks = 18, .prefill_blocks = 18},
                      trace_options{.decode_blocks = 18, .prefill_blocks = 60, .max_num_seqs = 3},
                      trace_options{.decode_blocks = 40, .prefill_blocks = 18, .max_num_seqs = 12},
                      trace_options{.drafts = true}, trace_options{.drafts = true, .samples = true},
                      trace_options{.decode_blocks = 18,
                                    .prefill_blocks = 60,
                                    .max_num_seqs = 3,
                                    .drafts = true}));

}  // namespace
}  // namespace troupe::engine::testing
