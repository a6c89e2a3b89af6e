// Strong ids shared by engine, transport and actors. A bare integer never crosses an interface.
#pragma once

#include <cstdint>
#include <string>

namespace troupe {

using token_id = std::uint32_t;  // index into the vocabulary

// One request of one client. Chosen by the gateway, unique for its incarnation: (gateway random 32 bits, counter).
enum class request_id : std::uint64_t {};

// One attempt to serve a request on one decode node; messages of an older attempt are dropped.
using attempt = std::uint32_t;

// Index of a block in its owner's KV arena.
using block_id = std::uint32_t;

// A start of a node: random, new at each start, so that a restarted process is a new peer.
enum class incarnation : std::uint64_t {};

// A peer is (name, incarnation), never host:port.
struct node_id {
  std::string name;  // stable across restarts, for people: "decode-0"
  incarnation start{};
  friend bool operator==(const node_id&, const node_id&) = default;
  friend auto operator<=>(const node_id&, const node_id&) = default;
};

inline std::uint64_t raw(request_id id) {
  return static_cast<std::uint64_t>(id);
}
inline std::uint64_t raw(incarnation id) {
  return static_cast<std::uint64_t>(id);
}

}  // namespace troupe
