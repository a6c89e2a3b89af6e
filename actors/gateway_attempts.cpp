// A request's attempts: which node each goes to, and what becomes of it when that node fails.
#include <algorithm>

#include "actors/gateway.hpp"
#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

bool has_room(const gateway_state::node_table::peer& n) {
  return n.info.kind == role::decode && n.ready && n.actor;
}

}  // namespace

std::size_t gateway_state::room() const {
  std::size_t seqs = 0;
  for (const auto& [start, n] : nodes)
    if (has_room(n)) seqs += n.info.max_num_seqs > 0 ? n.info.max_num_seqs : room_unknown;
  return seqs + (seqs + 3) / 4;  // the quarter is read while the others are decoded
}

void gateway_state::route(std::uint64_t id) {
  auto& q = requests.at(id);
  q.decode = 0;
  q.routing = true;
  parked.erase(id);
  const auto try_number = q.try_number;
  const auto begin = self->clock().now();
  route_request ask{id,
                    static_cast<std::uint32_t>(q.message.prompt.size() + q.message.output.size()),
                    q.message.sampling.prompt_logprobs >= 0 && q.message.output.empty(),
                    q.excluded,
                    q.message.prompt,
                    q.message.cache_salt,
                    static_cast<std::uint32_t>(q.message.prompt.size()) +
                        std::max(q.message.sampling.max_tokens,
                                 static_cast<std::uint32_t>(q.message.output.size()))};
  ask.prompt.insert(ask.prompt.end(), q.message.output.begin(), q.message.output.end());
  self->request(context->router, context->options.route_timeout, std::move(ask))
      .then(
          [this, id, try_number, begin](const route_plan& plan) {
            context->metrics->route_seconds.Observe(
                std::chrono::duration<double>(self->clock().now() - begin).count());
            on_plan(id, try_number, plan);
          },
          [this, id, try_number](const caf::error&) {
            if (find(id, try_number) != nullptr)
              fail(id, {ec::internal, "the router did not answer"});
          });
}

void gateway_state::on_plan(std::uint64_t id, std::uint32_t try_number, const route_plan& plan) {
  auto* q = find(id, try_number);
  if (q == nullptr) return;
  q->routing = false;
  if (plan.code != ec::none) {
    const error why =
        q->last_failure.code != ec::none ? q->last_failure : error{plan.code, plan.detail};
    // Nobody decodes at the moment, but a node may be starting: wait a little, unless a node that is there refused.
    const bool refused = q->last_failure.code == ec::queue_full ||
                         q->last_failure.code == ec::draining ||
                         q->last_failure.code == ec::out_of_memory;
    if (refused || plan.code != ec::no_worker) return fail(id, why);
    return await_worker(id, why);
  }
  q->no_worker_since.reset();
  q->decode = plan.decode.start;
  q->routed = self->clock().now();
  q->predicted_ttft_us = plan.predicted_ttft_us;
  q->choice = plan.choice;
  context->metrics->on_route(plan.choice, plan.predicted_ttft_us, plan.cached_tokens);
  q->message.has_prefill = plan.has_prefill;
  q->message.prefill = plan.prefill;
  q->message.route_reason = plan.reason;
  nodes.connect(plan.decode);
  dispatch(id);
}

void gateway_state::await_worker(std::uint64_t id, const error& why) {
  auto& q = requests.at(id);
  const auto now = self->clock().now();
  parked.insert(id);
  if (!q.no_worker_since) q.no_worker_since = now;
  if (now - *q.no_worker_since > context->options.no_worker_wait) fail(id, why);
}

void gateway_state::dispatch(std::uint64_t id) {
  auto it = requests.find(id);
  if (it == requests.end()) return;
  auto& q = it->second;
  auto* n = nodes.find(q.decode);
  if (n == nullptr) return;  // connecting failed at once: the request was routed anew
  if (!n->actor) return n->waiting.push_back(id);
  auto message = q.message;
  message.try_number = q.try_number;
  q.output_at_dispatch = q.message.output.size();
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(q.deadline - self->clock().now())
          .count();
  message.timeout_ms = left > 0 ? static_cast<std::uint64_t>(left) : 0;
  self->send(decoder(q.decode), std::move(message));
}

void gateway_state::park(std::uint64_t id, const error& why) {
  auto it = requests.find(id);
  if (it == requests.end()) return;
  auto& q = it->second;
  q.last_failure = why;
  if (q.canceled)
    return fail(id, {ec::canceled, "canceled by the client"}, engine::finish_reason::abort);
  if (poison.refuses(q.message, self->clock().now()))
    return fail(id, {ec::poison, std::string(poison_list::explanation)});
  if (why.code != ec::draining && ++q.failures >= context->options.max_attempts)
    return fail(id, why);
  spdlog::warn("request {:x}: attempt {} ended after {} tokens ({}): trying another node", id,
               q.try_number, q.message.output.size(), to_string(why));
  // The old node may still be at work on it: what it says from now on is of an old attempt and is dropped.
  if (const auto old = decoder(q.decode)) self->send(old, cancel_request{id});
  q.excluded.push_back(std::exchange(q.decode, 0));
  ++q.try_number;
  parked.insert(id);
}

void gateway_state::retry(std::uint64_t id, const error& why) {
  park(id, why);
  route_parked();
}

void gateway_state::route_parked() {
  if (parked.empty() || routing_parked) return;
  std::vector<std::pair<std::pair<std::int32_t, time_point>, std::uint64_t>> ordered;
  std::size_t busy = 0;  // what a node that is being drained still has takes no room of the others
  for (const auto& [id, q] : requests) {
    if (parked.contains(id)) ordered.push_back({{q.message.priority, q.arrived}, id});
    const auto* n = nodes.find(q.decode);
    busy += q.routing || (n != nullptr && has_room(*n));
  }
  std::sort(ordered.begin(), ordered.end());
  const auto limit = room();
  const bool any_ready =
      std::any_of(latest.members.begin(), latest.members.end(), [](const actors::member& m) {
        return m.info.kind == role::decode && m.state == node_state::ready;
      });
  routing_parked = true;
  for (const auto& [order, id] : ordered) {
    if (!parked.contains(id)) continue;  // the end of another one ended it
    auto& q = requests.at(id);
    const auto last = q.last_failure;
    if (!any_ready || busy < limit)
      ++busy, route(id);
    else if (limit > 0)
      q.no_worker_since.reset();  // there is one: it only has to wait for its turn
    else
      await_worker(
          id, last.code != ec::none ? last : error{ec::no_worker, "no decode node is reached"});
  }
  routing_parked = false;
}

}  // namespace troupe::actors
