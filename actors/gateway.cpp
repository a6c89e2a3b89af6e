#include "actors/gateway.hpp"

#include <algorithm>

#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr auto tick_interval = std::chrono::milliseconds(250);

// Another node may succeed where this one did not.
bool worth_another_node(ec code) {
  return code == ec::draining || code == ec::queue_full || code == ec::peer_lost ||
         code == ec::device_lost || code == ec::out_of_memory;
}

}  // namespace

gateway_state::request* gateway_state::find(std::uint64_t id, std::uint32_t try_number) {
  auto it = requests.find(id);
  return it == requests.end() || it->second.try_number != try_number ? nullptr : &it->second;
}

void gateway_state::track() {
  context->metrics->requests_in_flight.Set(static_cast<double>(requests.size()));
  context->in_flight = static_cast<std::uint32_t>(requests.size());
}

void gateway_state::generate(const generate_request& r) {
  auto client = caf::actor_cast<stream_sink_actor>(self->current_sender());
  if (!client) return;
  auto refuse = [&](ec code, std::string why, std::chrono::seconds retry_after = {}) {
    auto m = failed_with(r.id, 0, {code, std::move(why)});
    m.retry_after_s = static_cast<std::uint32_t>(retry_after.count());
    context->metrics->admission_refused(code).Increment();
    self->send(client, std::move(m));
  };
  if (draining) return refuse(ec::draining, "the server is shutting down");
  if (requests.size() >= context->options.max_requests)
    return refuse(ec::queue_full,
                  "the server follows " + std::to_string(requests.size()) + " requests already");
  if (requests.count(r.id) != 0)
    return refuse(ec::invalid_argument, "a request with this id is running");
  const auto now = self->clock().now();
  if (poison.refuses(r, now)) return refuse(ec::poison, std::string(poison_list::explanation));
  const auto deadline =
      now + std::chrono::milliseconds(std::min<std::uint64_t>(r.timeout_ms, 24ull * 3600 * 1000));
  if (auto no = admission->enter(
          {r.id, r.tenant, r.priority, r.prompt.size() + r.sampling.max_tokens, deadline}, now))
    return refuse(no->why.code, no->why.detail, no->retry_after);
  if (clients.insert(client.address()).second) self->monitor(client);

  request q;
  q.message = r;
  q.client = client;
  q.arrived = now;
  q.deadline = deadline;
  requests.emplace(r.id, std::move(q));
  track();
  admit();
}

void gateway_state::admit() {
  // With no decode node requests are routed too: they wait for one to come, and no longer than no_worker_wait.
  const auto room_now = room(), limit = room_now > 0 ? room_now : room_unknown;
  while (admission->serving() < limit) {
    const auto now = self->clock().now();
    const auto id = admission->next(now);
    if (!id) break;
    auto& q = requests.at(*id);
    q.waiting = false;
    context->metrics->admission_wait_seconds.Observe(
        std::chrono::duration<double>(now - q.arrived).count());
    route(*id);
  }
  for (auto& [id, why] : admission->take_dropped()) {
    context->metrics->admission_refused(why.code).Increment();
    fail(id, why, engine::finish_reason::error, std::chrono::seconds(1));
  }
  context->metrics->admission_waiting.Set(static_cast<double>(admission->waiting()));
}

void gateway_state::on_tokens(const generation_tokens& m) {
  auto* q = find(m.id, m.try_number);
  if (q == nullptr) return;
  if (m.of_prompt) {
    if (std::exchange(q->prompt_logprobs_sent, true)) return;
    auto copy = m;
    copy.try_number = 0;
    return self->send(q->client, std::move(copy));
  }
  generation_tokens fresh{m.id, 0, false, {}};
  auto& delivered = q->message.output;
  for (const auto& t : m.tokens) {
    if (t.index < delivered.size()) continue;
    if (t.index > delivered.size())
      return retry(
          m.id, {ec::internal, "a decode node skipped token " + std::to_string(delivered.size())});
    if (delivered.empty()) {
      const auto ttft = std::chrono::duration<double>(self->clock().now() - q->routed).count();
      context->metrics->on_first_token(q->choice, q->predicted_ttft_us, ttft);
    }
    delivered.push_back(t.token);
    fresh.tokens.push_back(t);
  }
  if (!fresh.tokens.empty()) self->send(q->client, std::move(fresh));
}

void gateway_state::on_finished(const generation_finished& m) {
  auto* q = find(m.id, m.try_number);
  if (q == nullptr) return;
  const bool failed = m.reason == static_cast<std::uint8_t>(engine::finish_reason::error);
  if (failed && !q->canceled && worth_another_node(m.code)) return retry(m.id, {m.code, m.detail});
  auto copy = m;
  if (!failed) poison.served(q->message);
  if (q->try_number > 0) {
    context->metrics->migration(failed ? "failed" : "resumed").Increment();
    copy.migrations = q->try_number;
  }
  close(m.id, std::move(copy));
}

void gateway_state::fail(std::uint64_t id, const error& why, engine::finish_reason reason,
                         std::chrono::seconds retry_after) {
  auto it = requests.find(id);
  if (it == requests.end()) return;
  auto m = failed_with(id, 0, why);
  m.reason = static_cast<std::uint8_t>(reason);
  m.prompt_tokens = static_cast<std::uint32_t>(it->second.message.prompt.size());
  m.completion_tokens = static_cast<std::uint32_t>(it->second.message.output.size());
  m.migrations = it->second.try_number;
  m.retry_after_s = static_cast<std::uint32_t>(retry_after.count());
  if (it->second.try_number > 0) context->metrics->migration("failed").Increment();
  close(id, std::move(m));
}

void gateway_state::close(std::uint64_t id, generation_finished m) {
  auto it = requests.find(id);
  m.try_number = 0;
  const auto& q = it->second;
  const auto used = q.message.prompt.size() + q.message.output.size();
  const bool whole = m.reason != static_cast<std::uint8_t>(engine::finish_reason::error) &&
                     m.reason != static_cast<std::uint8_t>(engine::finish_reason::abort);
  self->send(q.client, std::move(m));
  requests.erase(it);
  parked.erase(id);
  track();
  admission->leave(id, used, whole, self->clock().now());
  route_parked();
  admit();
}

void gateway_state::cancel(std::uint64_t id) {
  auto it = requests.find(id);
  if (it == requests.end()) return;
  auto& q = it->second;
  q.canceled = true;
  if (const auto decode = decoder(q.decode))
    self->send(decode, cancel_request{id});  // it answers with abort
  else
    fail(id, {ec::canceled, "canceled by the client"}, engine::finish_reason::abort);
}

void gateway_state::check_deadlines() {
  const auto now = self->clock().now();
  std::vector<std::uint64_t> late;
  for (auto& [id, q] : requests)
    if (now >
        q.deadline + (q.waiting ? std::chrono::milliseconds(0) : context->options.deadline_grace))
      late.push_back(id);
  for (auto id : late) {
    auto it = requests.find(id);
    if (it == requests.end()) continue;  // the end of another one let the admission queue drop it
    if (const auto decode = decoder(it->second.decode)) self->send(decode, cancel_request{id});
    fail(id, {ec::deadline_exceeded, "the answer was not complete within the request's time"});
  }
}

gateway_actor::behavior_type gateway_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) {
    if (nodes.down(down.source)) return;
    subscribers.erase(down.source);
    if (clients.erase(down.source) == 0) return;
    std::vector<std::uint64_t> orphans;
    for (auto& [id, q] : requests)
      if (q.client.address() == down.source) orphans.push_back(id);
    for (auto id : orphans) cancel(id);
  });
  nodes.start(self,
              {context->connector, context->options.connect_timeout, context->neighbours, nullptr,
               [this](std::uint64_t start, node_table::peer& n) { on_connected(start, n); },
               [this](std::uint64_t start, const node_table::peer& lost,
                      const node_table::loss& why) { on_lost(start, lost, why); }});
  self->delayed_send(self, tick_interval, caf::tick_atom_v);
  self->send(context->directory, subscribe_request{});
  return {
      [this](const generate_request& r) { generate(r); },
      [this](const cancel_request& c) { cancel(c.id); },
      [this](const generation_accepted& m) {
        auto* q = find(m.id, m.try_number);
        if (q != nullptr && !std::exchange(q->accepted, true))
          self->send(q->client, generation_accepted{m.id, 0});
      },
      [this](const generation_tokens& m) { on_tokens(m); },
      [this](const generation_finished& m) { on_finished(m); },
      [this](const membership& m) { on_membership(m); },
      [this](const subscribe_request&) {
        auto listener = caf::actor_cast<membership_listener>(self->current_sender());
        if (!listener) return;
        if (subscribers.insert_or_assign(listener.address(), listener).second)
          self->monitor(listener);
        self->send(listener, latest);
      },
      [this](const metrics_request&) { return collect_metrics(); },
      [this](const clear_request&) { return clear_stores(); },
      [this](const pin_request& r) { return pin_in_stores(r); },
      [this](const drain_request&) { draining = true; },
      [this](const drain_node_request& r) { return drain_node(r); },
      [this](caf::tick_atom) {
        self->delayed_send(self, tick_interval, caf::tick_atom_v);
        beat();
        check_deadlines();
        route_parked();
      },
  };
}

gateway_actor::behavior_type gateway(gateway_actor::stateful_pointer<gateway_state> self,
                                     std::shared_ptr<gateway_context> context) {
  self->state.admission.emplace(context->options.admission);
  self->state.context = std::move(context);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
