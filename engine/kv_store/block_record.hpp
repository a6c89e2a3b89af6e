// The header page in front of each block of a KV store's file: what the block is, and checksums. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "engine/kv_store/block_store.hpp"

namespace troupe::engine {

constexpr std::size_t page = 4096;

struct stored_record {
  block_key key;
  std::uint64_t sequence = 0, payload_sum = 0;
};

bool fits_a_header(std::uint32_t block_tokens);
std::uint64_t header_checksum(std::span<const std::byte> bytes);
// Fills the page at `at`.
void encode_record(std::byte* at, const block_key& key, std::uint64_t sequence,
                   std::uint64_t payload_sum);
// nullopt: no record of blocks of so many tokens, or not one as it was written.
std::optional<stored_record> decode_record(const std::byte* at, std::uint32_t block_tokens);

}  // namespace troupe::engine
