#include "actors/wire.hpp"

#include <gtest/gtest.h>

#include <caf/actor_system.hpp>
#include <caf/binary_deserializer.hpp>
#include <caf/binary_serializer.hpp>
#include <limits>

#include "actors/interfaces.hpp"
#include "actors/system.hpp"

namespace troupe::actors {
namespace {

// Through CAF's serializer and back, as between two nodes.
template <class T>
T round_trip(const T& in) {
  std::vector<char> buffer;
  caf::binary_serializer sink{nullptr, buffer};
  EXPECT_FALSE(sink(const_cast<T&>(in)));
  T out;
  caf::binary_deserializer source{nullptr, buffer};
  EXPECT_FALSE(source(out));
  return out;
}

TEST(wire, sampling_keeps_every_field) {
  engine::sampling_params p;
  p.temperature = 0.7f;
  p.top_p = 0.9f;
  p.top_k = 40;
  p.min_p = 0.05f;
  p.repetition_penalty = 1.1f;
  p.presence_penalty = -2.0f;
  p.frequency_penalty = 0.5f;
  p.logit_bias = {{5, -100.0f}, {7, 3.5f}};
  p.seed = 0xFFFFFFFFFFFFFFFFull;
  p.sequence_index = 3;
  p.logprobs = 0;
  p.prompt_logprobs = 20;
  p.stop_token_ids = {1, 2};
  p.ignore_eos = true;
  p.min_tokens = 4;
  p.max_tokens = 512;
  p.format = {engine::structured::format_kind::regex, "a+"};
  const auto q = from_wire(round_trip(to_wire(p)));
  EXPECT_EQ(q.temperature, p.temperature);
  EXPECT_EQ(q.top_p, p.top_p);
  EXPECT_EQ(q.top_k, p.top_k);
  EXPECT_EQ(q.min_p, p.min_p);
  EXPECT_EQ(q.repetition_penalty, p.repetition_penalty);
  EXPECT_EQ(q.presence_penalty, p.presence_penalty);
  EXPECT_EQ(q.frequency_penalty, p.frequency_penalty);
  EXPECT_EQ(q.logit_bias, p.logit_bias);
  EXPECT_EQ(q.seed, p.seed);
  EXPECT_EQ(q.sequence_index, p.sequence_index);
  EXPECT_EQ(q.logprobs, p.logprobs);
  EXPECT_EQ(q.prompt_logprobs, p.prompt_logprobs);
  EXPECT_EQ(q.stop_token_ids, p.stop_token_ids);
  EXPECT_EQ(q.ignore_eos, p.ignore_eos);
  EXPECT_EQ(q.min_tokens, p.min_tokens);
  EXPECT_EQ(q.max_tokens, p.max_tokens);
  EXPECT_EQ(q.format, p.format);
}

// CAF 0.17.6 hangs on an infinity and mangles NaN and denormals when it serializes floats.
TEST(wire, logprobs_survive_that_caf_cannot_carry) {
  const float infinity = std::numeric_limits<float>::infinity();
  engine::token_output t{7, 42, -infinity, {{1, 1e-40f}, {2, -0.0f}}};
  const auto u = from_wire(round_trip(to_wire(t)));
  EXPECT_EQ(u.index, 7u);
  EXPECT_EQ(u.token, 42u);
  EXPECT_EQ(u.logprob, -infinity);
  ASSERT_EQ(u.top.size(), 2u);
  EXPECT_EQ(u.top[0].logprob, 1e-40f);
  EXPECT_TRUE(std::signbit(u.top[1].logprob));
}

TEST(wire, unequal_lists_of_a_hostile_peer_are_cut) {
  sampling_wire w;
  w.bias_tokens = {1, 2, 3};
  w.bias_bits = {0};
  EXPECT_EQ(from_wire(w).logit_bias.size(), 1u);
  token_wire t;
  t.top_bits = {1, 2};
  EXPECT_TRUE(from_wire(t).top.empty());
}

TEST(wire, an_unknown_finish_reason_is_an_error) {
  generation_finished m;
  m.reason = 200;
  EXPECT_EQ(from_wire(m).reason, engine::finish_reason::error);
}

node_info some_info() {
  node_info n;
  n.name = "decode-0";
  n.start = 99;
  n.kind = role::prefill;
  n.host = "10.0.0.1";
  n.port = 7;
  n.transport_address = std::string("\0binary\xff", 8);
  n.model_digest = "abc";
  n.kv_identity = "def";
  n.num_blocks = 10;
  return n;
}

TEST(wire, messages_survive_the_serializer) {
  generate_request g;
  g.id = 1;
  g.try_number = 2;
  g.prompt = {1, 2, 3};
  g.output = {4};
  g.cache_salt = "salt";
  g.timeout_ms = 5;
  g.tenant = "holder";
  g.has_prefill = true;
  g.prefill = some_info();
  g.route_reason = "why";
  const auto h = round_trip(g);
  EXPECT_EQ(h.prompt, g.prompt);
  EXPECT_EQ(h.output, g.output);
  EXPECT_EQ(h.prefill.transport_address, g.prefill.transport_address);
  EXPECT_EQ(h.prefill.kind, role::prefill);
  EXPECT_EQ(h.route_reason, "why");
  // Whose it is reaches the engine: earlier answers are kept apart by it.
  const auto in_engine = to_engine(h, {});
  EXPECT_EQ(in_engine.tenant, "holder");
  EXPECT_EQ(in_engine.cache_salt, "salt");

  membership m;
  m.version = 3;
  m.members.push_back({some_info(), node_state::draining, "note", {}, 17});
  m.members[0].load.blocks_free = 5;
  const auto n = round_trip(m);
  ASSERT_EQ(n.members.size(), 1u);
  EXPECT_EQ(n.members[0].state, node_state::draining);
  EXPECT_EQ(n.members[0].load.blocks_free, 5u);
  EXPECT_EQ(n.members[0].heartbeat_age_ms, 17u);

  blocks_ready b{1, 2, 3, {{4, 5, 6}, {7, 8, 9}}, true};
  const auto c = round_trip(b);
  ASSERT_EQ(c.blocks.size(), 2u);
  EXPECT_EQ(c.blocks[1].generation, 8u);
  EXPECT_TRUE(c.last);

  generation_finished f;
  f.detail = "d";
  f.migrations = 2;
  f.transfer_bytes = 1ull << 40;
  f.code = ec::peer_lost;
  const auto e = round_trip(f);
  EXPECT_EQ(e.code, ec::peer_lost);
  EXPECT_EQ(e.transfer_bytes, 1ull << 40);
  EXPECT_EQ(e.migrations, 2u);
}

}  // namespace
}  // namespace troupe::actors
