// The address that a fabric publishes and its peers read: where its worker listens and which
// regions it shows. Plain data and a parser for hostile input: every length is checked against what
// is left, and a sum over the whole tells a damaged address from a good one before UCX sees any of
// it. The sum is no signature. What proves that a reader may read is its key_of() the address.
// Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "transport/fabric.hpp"
#include "transport/shared_memory.hpp"

namespace troupe::transport {

struct published_region {
  std::uint64_t base = 0;  // address in the owner's process
  std::uint64_t bytes = 0;
  memory_kind kind = memory_kind::host;
  std::string key;           // packed rkey for one-sided gets; empty: none
  shared_name share;         // for readers on the same host
  std::string device_share;  // the same of device memory (device_memory::share); empty: none
};

using hello_key = std::array<std::byte, 16>;

struct node_address {
  incarnation owner{};
  hello_key nonce{};   // random, new at each start
  std::string host;    // equal for two processes that can map each other's memory
  std::string worker;  // UCX worker address
  std::vector<published_region> regions;
};

std::string encode(const node_address& address);
// ec::invalid_argument: malformed; ec::unsupported: another version.
result<node_address> decode_address(std::string_view text);

// What a reader's hello to the owner of that address must bring: shows that it was given the address and has the
// cluster's secret. It depends on where the worker listens, so a hello that somebody else was lured into sending to him
// opens no other owner.
hello_key key_of(const node_address& address, std::string_view cluster_secret);

// Boot id and the namespaces that decide whether memory can be mapped.
std::string host_identity();

// What every fabric checks before it accepts a pull. `remote_bytes` is the size of the peer's
// region.
result<void> check_pieces(const pull_request& request, std::uint64_t remote_bytes,
                          const region& local);

}  // namespace troupe::transport
