// Copies of prompts that many ask for. The next store of the prompt's order is offered what this one has, as a node
// would offer it, and pulls it; readers hear of the copy with their next answer, and take turns.
#include <algorithm>

#include "actors/connect.hpp"
#include "actors/kv_store.hpp"
#include "actors/store_order.hpp"
#include "base/log.hpp"
#include "engine/prefix_index.hpp"

namespace troupe::actors {
namespace {

// A prompt is hot when it is asked for so often within the window, for each copy that there is.
constexpr std::uint32_t hot_lookups = 8;
constexpr auto hot_window = std::chrono::seconds(10);
constexpr std::size_t most_prompts = 4096;  // that are watched
constexpr std::size_t most_copied = 256;    // blocks of one copy
constexpr auto copy_timeout = std::chrono::seconds(5);

}  // namespace

std::vector<store_place> kv_store_state::order_of(const hash128_t& first) const {
  std::vector<store_place> all{{context->node->info.name, context->node->info.start, 0}};
  for (const auto& [start, s] : other_stores) all.push_back({s.info.name, start, 0});
  return store_order(first, std::move(all));
}

// Counts a lookup; how many stores of the order, this one included, have the prompt.
std::uint32_t kv_store_state::heat_up(const hash128_t& first, std::span<const block_id> here) {
  if (other_stores.empty() || here.empty()) return 1;
  const auto now = context->node->now();
  if (prompts.size() >= most_prompts && !prompts.contains(first)) {
    std::erase_if(prompts, [&](const auto& p) { return now - p.second.since > hot_window; });
    if (prompts.size() >= most_prompts) return 1;
  }
  prompt_heat& heat = prompts[first];
  if (now - heat.since > hot_window) {
    heat.lookups = heat.lookups / 2;
    heat.since = now;
  }
  ++heat.lookups;
  std::erase_if(heat.copied_to, [&](auto start) { return !other_stores.contains(start); });
  const auto order = order_of(first);
  // Readers find copies from the home on, without a gap.
  std::uint32_t having = 0;
  const auto mine = context->node->info.start;
  while (having < order.size() &&
         (order[having].start == mine || heat.copied_to.contains(order[having].start)))
    ++having;
  if (having > 0 && having < order.size() && heat.lookups >= hot_lookups * having)
    copy_to(order[having].start, first, heat, here);
  return std::max(having, 1u);
}

void kv_store_state::copy_to(std::uint64_t start, const hash128_t& first, prompt_heat& heat,
                             std::span<const block_id> blocks) {
  const auto now = context->node->now();
  if (heat.copying != 0 && now - heat.copy_began < copy_timeout) return;
  auto& to = other_stores.at(start);
  connect_store(to);
  if (!to.actor) return;  // with one of the next lookups
  heat.copying = next_copy++;
  heat.copy_began = now;
  blocks = blocks.first(std::min(blocks.size(), most_copied));
  auto m = offer_of(heat.copying, blocks);
  const auto lease = next_lease++;
  store->lease(lease, blocks, now);  // until it is done, or the lease ends
  copies[heat.copying] = {first, start, lease};
  self->send(to.actor, std::move(m));
  spdlog::info("a prompt is asked for often: {} gets a copy of {} blocks", to.info.name,
               blocks.size());
}

store_offer kv_store_state::offer_of(std::uint64_t number, std::span<const block_id> blocks) const {
  store_offer m{context->node->info.start, number, context->node->info.kv_identity, {}};
  for (const block_id b : blocks) {
    const auto& k = store->key(b);
    m.blocks.push_back({k.hash.high,
                        k.hash.low,
                        k.parent.high,
                        k.parent.low,
                        k.tokens,
                        k.index,
                        k.prompt_tokens,
                        {b, store->generation(b), context->options.block_tokens}});
  }
  return m;
}

void kv_store_state::on_copied(const store_offer_done& m) {
  const auto it = copies.find(m.number);
  if (it == copies.end()) return;
  const copy c = it->second;
  copies.erase(it);
  store->release(c.lease);
  context->metrics->copied();
  const auto heat = prompts.find(c.first);
  if (heat == prompts.end()) return;
  heat->second.copying = 0;
  if (m.stored + m.had > 0)
    heat->second.copied_to.insert(c.to);  // else it knows us not yet, or leaves
}

void kv_store_state::connect_store(other_store& s) {
  if (s.actor || std::exchange(s.connecting, true)) return;
  const auto start = s.info.start;
  auto connected = [this, start](const kv_store_actor& actor) {
    auto it = other_stores.find(start);
    if (it == other_stores.end() || it->second.actor) return;
    it->second.actor = actor;
    self->monitor(actor);
  };
  if (auto neighbour = context->node->neighbours->find(start))
    return connected(caf::actor_cast<kv_store_actor>(neighbour));
  connect_to<kv_store_actor>(self, context->node->connector, s.info.host, s.info.port,
                             context->node->options.connect_timeout, connected,
                             [this, start](const error&) {
                               auto it = other_stores.find(start);
                               if (it != other_stores.end()) it->second.connecting = false;
                             });
}

// The next one that has something for it connects anew.
void kv_store_state::on_store_down(const caf::actor_addr& actor) {
  for (auto& [start, s] : other_stores) {
    if (!s.actor || s.actor.address() != actor) continue;
    s.actor = nullptr;
    s.connecting = false;
  }
}

// -- pins ----------------------------------------------------------------------------------------------------------------

pin_reply kv_store_state::pin(const pin_request& r) {
  const auto now = context->node->now();
  const auto until = r.ttl_s == 0 ? time_point::max() : now + std::chrono::seconds(r.ttl_s);
  const std::uint32_t size = context->options.block_tokens;
  std::vector<hash128_t> chain;
  if (!r.tokens.empty()) {
    hash128_t h = engine::root_hash(context->kv_identity, r.cache_salt);
    const std::span<const token_id> tokens(r.tokens);
    for (std::size_t at = 0; at + size <= tokens.size(); at += size)
      chain.push_back(h = engine::chain_hash(h, tokens.subspan(at, size)));
  } else {
    hash128_t h{r.hash_high, r.hash_low};
    for (const auto* key = find_key(h); key != nullptr && chain.size() < most_chain;
         key = find_key(h)) {
      chain.push_back(h);
      h = key->parent;
    }
    std::ranges::reverse(chain);
  }
  pin_reply reply;
  for (const auto& h : chain) {
    bool done = store->pin(h, r.pinned, until);
    if (context->file) done = context->file->pin(h, r.pinned, until) || done;
    if (!done) break;
    ++reply.blocks;
    reply.hash_high = h.high;
    reply.hash_low = h.low;
  }
  return reply;
}

const engine::block_key* kv_store_state::find_key(const hash128_t& hash) const {
  if (const auto* key = store->find_key(hash)) return key;
  return context->file ? context->file->find_key(hash) : nullptr;
}

}  // namespace troupe::actors
