// The gateway's and the router's part, and the clock.
#include "actors/capacity/planner.hpp"

#include <algorithm>
#include <random>

namespace troupe::actors {
namespace {

constexpr auto beat_interval = std::chrono::milliseconds(250);
constexpr std::uint32_t max_attempts = 3;
constexpr auto deadline_grace = std::chrono::milliseconds(2000);

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

bool worth_another_node(ec code) {
  return code == ec::queue_full || code == ec::out_of_memory;
}

double seconds_between(planner::time_point a, planner::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

planner::planner(const std::vector<trace_request>& trace, const plan_options& options)
    : trace_(trace),
      options_(options),
      events_(time_point(std::chrono::hours(1))),
      begin_(events_.now()),
      message_(nanoseconds(options.decode.message_seconds)),
      door_(nanoseconds(options.decode.request_seconds)),
      admission_(options.admission) {}

// -- requests --------------------------------------------------------------------------------------------------------------

// Each request of the trace as often as `load` says; copies have prompts of their own, so they share nothing with
// the others.
void planner::make_flights() {
  std::mt19937_64 chance(options_.seed);
  const auto fraction = [&] { return static_cast<double>(chance() >> 11) * 0x1p-53; };
  const double whole = std::floor(options_.load);
  const double jitter = std::chrono::duration<double>(options_.jitter).count();
  std::vector<std::pair<double, flight>> made;
  for (const auto& r : trace_) {
    const double u = fraction();
    const auto copies = static_cast<std::uint32_t>(whole) + (u < options_.load - whole ? 1 : 0);
    for (std::uint32_t c = 0; c < copies; ++c) {
      flight f;
      f.asked = &r;
      f.copy = c;
      made.emplace_back(r.arrival_seconds + jitter * fraction(), std::move(f));
    }
  }
  std::stable_sort(made.begin(), made.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  flights_.reserve(made.size());
  for (auto& [at, f] : made) {
    f.arrived = begin_ + nanoseconds(at);
    flights_.push_back(std::move(f));
  }
  to_come_ = flights_.size();
}

void planner::arrive(flight_index f) {
  if (f + 1 < flights_.size()) events_.at(flights_[f + 1].arrived, [this, f] { arrive(f + 1); });
  events_.after(door_, [this, f] {
    auto& q = flights_[f];
    --to_come_, ++open_;
    q.deadline = now() + options_.timeout;
    if (open_ > options_.max_requests) return close(f, ec::queue_full);
    const std::uint64_t cost = std::uint64_t{q.asked->input_length} + q.asked->output_length;
    if (auto no = admission_.enter({f + 1ull, {}, 0, cost, q.deadline}, now()))
      return close(f, no->why.code);
    events_.at(q.deadline, [this, f] { check_deadline(f); });
    admit();
  });
}

std::size_t planner::room() const {
  return decode_seqs_ + (decode_seqs_ + 3) / 4;
}

void planner::admit() {
  while (admission_.serving() < room()) {
    const auto id = admission_.next(now());
    if (!id) break;
    route(static_cast<flight_index>(*id - 1));
  }
  for (auto& [id, why] : admission_.take_dropped())
    close(static_cast<flight_index>(id - 1), why.code);
}

void planner::route(flight_index f) {
  auto& q = flights_[f];
  route_request ask;
  ask.id = f + 1ull;
  ask.prompt_tokens = q.asked->input_length + q.tokens;
  ask.excluded = q.excluded;
  if (options_.engine.prefix_caching) ask.prompt = prompt_of(f);
  const auto decision = policy_.decide(ask, now());
  ++routes_[decision.reason];
  if (decision.plan.code != ec::none) return close(f, decision.plan.code);
  q.decode = static_cast<std::uint32_t>(decision.plan.decode.start - 1);
  q.remote.reset();
  if (decision.plan.has_prefill)
    q.remote =
        remote_part{static_cast<std::uint32_t>(decision.plan.prefill.start - 1), false, 0, now()};
  q.dispatched = true;
  events_.at(after_message(), [this, f, t = q.try_number] { start_decode(f, t); });
}

void planner::retry(flight_index f, ec why) {
  auto& q = flights_[f];
  if (!worth_another_node(why) || q.try_number + 1 >= max_attempts) return close(f, why);
  q.excluded.push_back(q.decode + 1ull);
  ++q.try_number;
  route(f);
}

void planner::close(flight_index f, std::optional<ec> failure) {
  auto& q = flights_[f];
  if (std::exchange(q.over, true)) return;
  --open_;
  last_end_ = now();
  if (failure) ++refused_[std::string(to_string(*failure))];
  admission_.leave(f + 1ull, std::uint64_t{q.asked->input_length} + q.tokens, true, now());
  admit();
}

// The nodes end a request at its deadline themselves; one that waits here, or whose end is lost, ends here.
void planner::check_deadline(flight_index f) {
  auto& q = flights_[f];
  if (q.over) return;
  if (!q.dispatched || now() >= q.deadline + deadline_grace) return close(f, ec::deadline_exceeded);
  events_.at(q.deadline + deadline_grace, [this, f] { check_deadline(f); });
}

// -- membership ------------------------------------------------------------------------------------------------------------

void planner::hear_heartbeats() {
  ++membership_.version;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const auto& n = nodes_[i];
    const auto s = n.engine->stats();
    auto& l = membership_.members[i].load;
    l.running = s.running, l.waiting = s.waiting, l.waiting_remote = s.waiting_remote;
    l.held = s.held;
    l.waiting_tokens = s.waiting_tokens;
    l.blocks_free = s.blocks_free, l.blocks_cached = s.blocks_cached;
    l.blocks_writing = s.blocks_writing, l.blocks_sealed = s.blocks_sealed;
    l.prompt_tokens = s.prefill_tokens, l.generated_tokens = s.decode_tokens;
    l.prefill_tokens_per_second = static_cast<std::uint64_t>(s.prefill_tokens_per_second);
    l.decode_step_us = static_cast<std::uint64_t>(s.decode_step_seconds * 1e6);
    l.pull_bytes_per_second = static_cast<std::uint64_t>(n.pull_bytes_per_second);
  }
  policy_.update(membership_, now());
  for (const auto& n : nodes_) hear_prefixes(n);
  admit();
  if (open_ + to_come_ > 0) events_.after(beat_interval, [this] { hear_heartbeats(); });
}

// What the node's cache holds now, as a router follows it.
void planner::hear_prefixes(const node& n) {
  constexpr std::size_t of_one_message = 8192;
  const auto start = static_cast<std::uint64_t>(&n - nodes_.data()) + 1;
  if (!n.journal || !policy_.prefixes().follows(start)) return;
  for (bool more = true; more;) {
    const auto wanted = policy_.prefixes().ask(start);
    auto page = n.journal->read(wanted.next, wanted.since, of_one_message);
    more = policy_.prefixes().apply(
        {start, page.first, page.next, page.since, page.reset, page.more, std::move(page.changes)});
  }
}

// -- the run ---------------------------------------------------------------------------------------------------------------

result<void> planner::build() {
  const std::size_t count = std::size_t{options_.num_decode} + options_.num_prefill;
  nodes_.resize(count);
  membership_.members.resize(count);
  arena_.resize(
      std::max(timed_runner::arena_bytes(options_.decode),
               options_.num_prefill > 0 ? timed_runner::arena_bytes(options_.prefill) : 0));
  for (std::size_t i = 0; i < count; ++i) {
    const bool decodes = i < options_.num_decode;
    const auto& profile = decodes ? options_.decode : options_.prefill;
    TROUPE_CHECK(make_node(nodes_[i], decodes ? role::decode : role::prefill, profile));
    auto& m = membership_.members[i];
    m.state = node_state::ready;
    m.info.start = i + 1;
    m.info.kind = nodes_[i].kind;
    m.info.name = decodes ? "decode-" + std::to_string(i)
                          : "prefill-" + std::to_string(i - options_.num_decode);
    m.info.num_blocks = profile.num_blocks;
    m.info.block_tokens = profile.block_tokens;
    m.info.block_bytes = profile.block_bytes;
    m.info.kv_identity = to_hex(kv_identity);
    m.info.max_num_seqs = nodes_[i].max_num_seqs;
    if (decodes) decode_seqs_ += nodes_[i].max_num_seqs;
  }
  make_flights();
  return {};
}

plan_report planner::run() {
  hear_heartbeats();
  if (!flights_.empty()) events_.at(flights_.front().arrived, [this] { arrive(0); });
  // Every request ends by its deadline and the gateway's grace, so this ends.
  while (open_ + to_come_ > 0) {
    const auto when = events_.next();
    TROUPE_ASSERT(when.has_value());
    events_.move_clock(*when);
    events_.run_one();
    ++events_run_;
  }
  return settle();
}

plan_report planner::settle() const {
  plan_report r;
  std::vector<double> ttft, e2e;
  double cached = 0, transferred = 0;
  for (const auto& q : flights_) {
    if (q.tokens < q.asked->output_length) continue;
    ++r.finished;
    const double first = seconds_between(q.arrived, q.first);
    const double itl =
        q.tokens < 2 ? 0 : seconds_between(q.first, q.last) / static_cast<double>(q.tokens - 1);
    ttft.push_back(first);
    e2e.push_back(seconds_between(q.arrived, q.last));
    r.good += (options_.ttft_limit_seconds <= 0 || first <= options_.ttft_limit_seconds) &&
              (options_.itl_limit_seconds <= 0 || itl <= options_.itl_limit_seconds);
    r.prompt_tokens += q.asked->input_length;
    r.output_tokens += q.tokens;
    cached += q.transferred > 0 ? std::max(q.cached, q.remote_cached) : q.cached;
    transferred += q.transferred;
  }
  r.arrivals = flights_.size();
  r.refused = refused_;
  r.ttft = summarize(std::move(ttft));
  r.e2e = summarize(std::move(e2e));
  r.itl = gaps_.summary();
  const auto start = flights_.empty() ? begin_ : flights_.front().arrived;
  r.span_seconds = std::max(0.0, seconds_between(start, last_end_));
  if (r.span_seconds > 0) {
    r.goodput = static_cast<double>(r.good) / r.span_seconds;
    r.finished_per_second = static_cast<double>(r.finished) / r.span_seconds;
    r.output_tokens_per_second = static_cast<double>(r.output_tokens) / r.span_seconds;
  }
  if (r.prompt_tokens > 0) {
    r.cached_share = cached / static_cast<double>(r.prompt_tokens);
    r.transferred_share = transferred / static_cast<double>(r.prompt_tokens);
  }
  r.routes = routes_;
  r.leases_expired = leases_expired_;
  r.pulls_late = pulls_late_;
  r.decode = use_of(role::decode, r.span_seconds);
  r.prefill = use_of(role::prefill, r.span_seconds);
  r.events = events_run_;
  return r;
}

role_use planner::use_of(role kind, double span) const {
  role_use u;
  for (const auto& n : nodes_) {
    if (n.kind != kind) continue;
    const double busy =
        span > 0 ? std::min(1.0, std::chrono::duration<double>(n.computed).count() / span) : 0;
    u.least_busy = u.nodes == 0 ? busy : std::min(u.least_busy, busy);
    u.most_busy = std::max(u.most_busy, busy);
    ++u.nodes;
    u.busy += busy;
    const auto s = n.engine->stats();
    u.steps += s.steps, u.prompt_tokens += s.prefill_tokens, u.output_tokens += s.decode_tokens;
    u.preemptions += s.preemptions, u.evictions += s.evictions;
  }
  if (u.nodes > 0) u.busy /= u.nodes;
  return u;
}

}  // namespace troupe::actors
