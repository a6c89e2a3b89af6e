// What decode and prefill nodes do: their engines' turns, and pulls over the links between them.
#include <algorithm>

#include "actors/capacity/planner.hpp"
#include "actors/node_services.hpp"

namespace troupe::actors {
namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a * 0x9E3779B97F4A7C15ull + b + 0xD1B54A32D192ED03ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

constexpr auto idle_turn = std::chrono::microseconds(2);

}  // namespace

result<void> planner::make_node(node& n, role kind, const device_profile& profile) {
  n.kind = kind;
  n.profile = &profile;
  n.runner = std::make_unique<timed_runner>(profile);
  const auto s = sized_for(options_.engine, profile.on_gpu, profile.block_tokens);
  engine::engine_options e;
  e.num_blocks = profile.num_blocks;
  e.vocab_size = timed_runner::vocab_size;
  e.max_model_len = s.max_model_len > 0 ? std::min(s.max_model_len, profile.max_model_len)
                                        : profile.max_model_len;
  e.max_num_seqs = n.max_num_seqs = s.max_num_seqs;
  e.max_num_batched_tokens = s.max_num_batched_tokens;
  e.max_prefill_chunk =
      std::max(s.max_prefill_chunk / profile.block_tokens, 1u) * profile.block_tokens;
  e.max_waiting = s.max_waiting;
  e.inter_token_target = s.inter_token_target;
  e.lease = s.lease;
  e.prefix_caching = s.prefix_caching;
  e.speculation.enabled = false;  // nobody knows how often guesses would be right
  if (e.prefix_caching) n.journal = std::make_shared<engine::prefix_journal>();
  e.journal = n.journal;
  e.kv_identity = kv_identity;
  e.owner_incarnation = static_cast<std::uint64_t>(&n - nodes_.data()) + 1;
  e.sealer = std::make_shared<unsealed_blocks>();
  e.pass_clock = [runner = n.runner.get()] { return runner->device_clock(); };
  TROUPE_TRY(n.engine, engine::engine::make(*n.runner, arena_, e));
  return {};
}

// Tokens whose only meaning is which of them are equal: eight from one number, which stands for where in what text.
std::vector<token_id> planner::prompt_of(flight_index f) const {
  const auto& q = flights_[f];
  std::vector<token_id> prompt(q.asked->input_length);
  std::uint64_t eight = 0;
  for (std::uint32_t p = 0; p < q.asked->input_length; ++p) {
    const std::uint32_t piece = p / options_.hash_tokens, offset = p % options_.hash_tokens;
    if (offset % 8 == 0 || p == 0) {
      const std::uint64_t text = piece < q.asked->hash_ids.size()
                                     ? mix(q.asked->hash_ids[piece], 2ull * q.copy)
                                     : mix(f, 1);
      eight = mix(text, piece < q.asked->hash_ids.size() ? offset : p);
    }
    prompt[p] = static_cast<token_id>(eight >> (8 * (offset % 8))) & 255;
  }
  return prompt;
}

engine::generation_request planner::request_of(flight_index f, bool prefill_only) const {
  const auto& q = flights_[f];
  engine::generation_request r;
  r.id = request_id{f + 1ull};
  r.try_number = q.try_number;
  r.prompt = prompt_of(f);
  r.output.assign(q.tokens, 0);
  r.sampling.temperature = 0;
  r.sampling.ignore_eos = true;
  r.sampling.max_tokens = q.asked->output_length;
  r.deadline = q.deadline;
  r.prefill_only = prefill_only;
  return r;
}

planner::flight* planner::current(flight_index f, attempt t) {
  auto& q = flights_[f];
  return q.over || q.try_number != t ? nullptr : &q;
}

// -- engines' turns, as in driver and driver_loop ------------------------------------------------------------------------

void planner::post(node& n, command c) {
  n.queue.push_back(std::move(c));
  if (!n.busy) wake_at(n, now());
}

void planner::wake_at(node& n, time_point t) {
  if (n.scheduled && *n.scheduled <= t) return;
  n.scheduled = t;
  events_.at(t, [this, &n, t] {
    if (n.scheduled != t) return;
    n.scheduled.reset();
    if (!n.busy) turn(n);
  });
}

void planner::turn(node& n) {
  for (auto& c : std::exchange(n.queue, {})) c(*n.engine, now());
  auto report = n.engine->step(now());
  TROUPE_ASSERT(report.has_value());  // a device that computes nothing is never lost
  std::chrono::nanoseconds took = idle_turn;
  if (report->worked) {
    took = n.runner->last_pass() +
           std::chrono::nanoseconds(static_cast<std::int64_t>(n.profile->turn_seconds * 1e9));
    n.computed += took;
  }
  if (!report->worked && report->happened.empty()) return next(n);
  n.busy = true;
  events_.after(took,
                [this, &n, e = std::make_shared<engine::events>(std::move(report->happened))] {
                  n.busy = false;
                  hand_out(n, *e);
                  next(n);
                });
}

void planner::next(node& n) {
  if (!n.queue.empty() || n.engine->has_work()) return wake_at(n, now());
  const auto deadline = n.engine->next_deadline();
  if (deadline != time_point::max()) wake_at(n, std::max(deadline, now()));
}

void planner::hand_out(node& n, const engine::events& e) {
  n.kind == role::decode ? hear_decode(e) : hear_prefill(e);
}

// -- decode, as in decode.cpp ----------------------------------------------------------------------------------------------

void planner::start_decode(flight_index f, attempt t) {
  auto* q = current(f, t);
  if (q == nullptr) return;
  const bool remote = q->remote.has_value();
  if (remote) {
    q->remote->last_progress = now();
    events_.at(after_message(),
               [this, f, t, peer = q->remote->peer] { start_prefill(f, t, peer); });
    watch_silence(f, t);
  }
  post(nodes_[q->decode], [this, f, t, remote](engine::engine& eng, time_point at) {
    if (current(f, t) == nullptr) return;
    if (remote && flights_[f].remote) {
      auto reserved = eng.add_remote(request_of(f, false), at);
      if (reserved) return;
      end_remote(f, false);
      if (reserved.error().code != ec::out_of_memory)
        return on_decode_refused(f, t, reserved.error().code);
    }
    if (auto added = eng.add(request_of(f, false), at); !added)
      on_decode_refused(f, t, added.error().code);
  });
}

void planner::on_decode_refused(flight_index f, attempt t, ec why) {
  events_.at(after_message(), [this, f, t, why] {
    if (current(f, t) == nullptr) return;
    end_remote(f, false);
    retry(f, why);
  });
}

void planner::hear_decode(const engine::events& e) {
  const auto client_hears = now() + 2 * message_;
  for (const auto& t : e.tokens) {
    const auto f = static_cast<flight_index>(raw(t.id) - 1);
    auto* q = current(f, t.try_number);
    if (q == nullptr) continue;
    for (std::size_t i = 0; i < t.tokens.size(); ++i) {
      if (q->tokens++ == 0) {
        q->first = client_hears;
      } else {
        gaps_.add(std::chrono::duration<double>(client_hears - q->last).count());
      }
      q->last = client_hears;
    }
  }
  for (const auto& done : e.finished) {
    const auto f = static_cast<flight_index>(raw(done.id) - 1);
    if (current(f, done.try_number) == nullptr) continue;
    end_remote(f, false);
    flights_[f].cached = done.usage.cached_tokens;
    flights_[f].transferred = done.usage.transferred_tokens;
    const bool failed = done.reason == engine::finish_reason::error;
    events_.at(after_message(), [this, f, t = done.try_number, failed, code = done.failure.code] {
      if (current(f, t) == nullptr) return;
      failed ? retry(f, code) : close(f, {});
    });
  }
}

void planner::on_blocks(flight_index f, attempt t, std::uint32_t first_block,
                        std::vector<engine::block_descriptor> blocks, bool last) {
  auto* q = current(f, t);
  if (q == nullptr || !q->remote) return;
  q->remote->last_progress = now();
  q->remote->all_announced = q->remote->all_announced || last;
  ++q->remote->pulls_running;
  post(nodes_[q->decode], [this, f, t, first_block, blocks = std::move(blocks),
                           peer = q->remote->peer](engine::engine& eng, time_point) {
    auto plan = eng.start_pull(request_id{f + 1ull}, t, first_block, blocks);
    if (plan.pieces.empty()) return on_pull(f, t, true);  // cached here, or the request is gone
    pull(f, t, peer, std::move(plan));
  });
}

// A link takes one pull after the other; each of its two ends may be the one that is waited for.
void planner::pull(flight_index f, attempt t, std::uint32_t peer, engine::pull_plan plan) {
  auto& reader = nodes_[flights_[f].decode];
  auto& owner = nodes_[peer];
  const auto count = plan.pieces.size();
  const std::uint64_t bytes = count * reader.profile->block_bytes;
  const auto busy = std::chrono::nanoseconds(static_cast<std::int64_t>(
      static_cast<double>(bytes) / reader.profile->link_bytes_per_second * 1e9));
  const auto latency = std::chrono::nanoseconds(
      static_cast<std::int64_t>(reader.profile->link_latency_seconds * 1e9));
  const auto begin = std::max({now(), reader.link_free, owner.link_free});
  reader.link_free = owner.link_free = begin + busy;
  const auto end = begin + busy + latency;
  const auto limit = now() + role_options{}.pull_timeout;
  const bool late = end > limit;
  if (late) ++pulls_late_;
  const double seconds = std::chrono::duration<double>(busy + latency).count();
  auto& speed = reader.pull_bytes_per_second;
  speed = speed == 0 ? static_cast<double>(bytes) / seconds
                     : 0.9 * speed + 0.1 * static_cast<double>(bytes) / seconds;
  events_.at(std::min(end, limit),
             [this, f, t, &reader, id = plan.id, count, bytes, late, took = busy + latency] {
               const bool ok = !late && !flights_[f].blocks_lost;
               if (ok) on_pull(f, t, true);
               post(reader, [id, count, bytes, ok, took](engine::engine& eng, time_point at) {
                 eng.pull_ended(id, std::vector<bool>(count, ok), bytes, took, at);
               });
               if (!ok) on_pull(f, t, false);
             });
}

void planner::on_pull(flight_index f, attempt t, bool ok) {
  auto* q = current(f, t);
  if (q == nullptr || !q->remote) return;
  q->remote->last_progress = now();
  --q->remote->pulls_running;
  if (!ok) return end_remote(f, true);
  if (q->remote->all_announced && q->remote->pulls_running == 0) end_remote(f, false);
}

void planner::end_remote(flight_index f, bool compute_rest) {
  auto& q = flights_[f];
  if (!q.remote) return;
  const auto peer = q.remote->peer;
  q.remote.reset();
  events_.at(after_message(), [this, f, peer] {
    post(nodes_[peer], [f](engine::engine& eng, time_point at) {
      // As prefill_state::end does: what is not computed yet is not computed at all.
      eng.release(request_id{f + 1ull}, at);
      eng.cancel(request_id{f + 1ull}, at);
    });
  });
  if (!compute_rest) return;
  post(nodes_[q.decode], [f, t = q.try_number](engine::engine& eng, time_point at) {
    eng.remote_failed(request_id{f + 1ull}, t, at);
  });
}

void planner::watch_silence(flight_index f, attempt t) {
  const auto* q = current(f, t);
  if (q == nullptr || !q->remote) return;
  const auto limit = q->remote->last_progress + role_options{}.prefill_silence;
  if (now() >= limit) return end_remote(f, true);
  events_.at(limit, [this, f, t] { watch_silence(f, t); });
}

// -- prefill, as in prefill.cpp --------------------------------------------------------------------------------------------

void planner::start_prefill(flight_index f, attempt t, std::uint32_t peer) {
  if (current(f, t) == nullptr || !flights_[f].remote) return;
  post(nodes_[peer], [this, f, t](engine::engine& eng, time_point at) {
    const auto* q = current(f, t);
    if (q == nullptr || !q->remote) return;
    if (eng.add(request_of(f, true), at)) return;
    events_.at(after_message(), [this, f, t] {
      if (current(f, t) != nullptr) end_remote(f, true);
    });
  });
}

void planner::hear_prefill(const engine::events& e) {
  for (const auto& tokens : e.tokens) {
    const auto f = static_cast<flight_index>(raw(tokens.id) - 1);
    events_.at(after_message(), [this, f, t = tokens.try_number, token = tokens.tokens.front()] {
      auto* q = current(f, t);
      if (q == nullptr || !q->remote) return;
      q->remote->last_progress = now();
      post(nodes_[q->decode], [f, t, token](engine::engine& eng, time_point at) {
        eng.remote_first_token(request_id{f + 1ull}, t, token, at);
      });
    });
  }
  for (const auto& ready : e.blocks_ready) {
    const auto f = static_cast<flight_index>(raw(ready.id) - 1);
    events_.at(after_message(), [this, f, ready] {
      on_blocks(f, ready.try_number, ready.first_block, ready.blocks, ready.last);
    });
  }
  for (const auto& done : e.finished) {
    const auto f = static_cast<flight_index>(raw(done.id) - 1);
    auto* q = current(f, done.try_number);
    if (q == nullptr) continue;
    q->remote_cached = done.usage.cached_tokens;
    if (done.reason != engine::finish_reason::error || !q->remote) continue;
    events_.at(after_message(), [this, f, t = done.try_number] {
      if (current(f, t) != nullptr) end_remote(f, true);
    });
  }
  for (const auto& expired : e.leases_expired) {
    ++leases_expired_;
    flights_[static_cast<flight_index>(raw(expired.id) - 1)].blocks_lost = true;
  }
}

}  // namespace troupe::actors
