#include "engine/kv_store/block_record.hpp"

#include <cstring>

namespace troupe::engine {
namespace {

constexpr std::uint64_t record_mark = 0x3152'564B505254;  // "TRPKVR1"

struct record_header {
  std::uint64_t mark, sequence, hash_high, hash_low, parent_high, parent_low;
  std::uint64_t prompt_tokens, payload_sum;
  std::uint32_t index, num_tokens;
  // then the tokens, then the sum of all before it
};

std::size_t header_sum_at(std::uint32_t num_tokens) {
  return sizeof(record_header) + (std::size_t{num_tokens} * sizeof(token_id) + 7) / 8 * 8;
}

}  // namespace

bool fits_a_header(std::uint32_t block_tokens) {
  return header_sum_at(block_tokens) + sizeof(std::uint64_t) <= page;
}

std::uint64_t header_checksum(std::span<const std::byte> bytes) {
  return hash64(bytes, record_mark);
}

void encode_record(std::byte* at, const block_key& key, std::uint64_t sequence,
                   std::uint64_t payload_sum) {
  std::memset(at, 0, page);
  const auto n = static_cast<std::uint32_t>(key.tokens.size());
  const record_header h{
      record_mark,    sequence,          key.hash.high, key.hash.low, key.parent.high,
      key.parent.low, key.prompt_tokens, payload_sum,   key.index,    n};
  std::memcpy(at, &h, sizeof h);
  std::memcpy(at + sizeof h, key.tokens.data(), n * sizeof(token_id));
  const std::uint64_t sum = header_checksum({at, header_sum_at(n)});
  std::memcpy(at + header_sum_at(n), &sum, sizeof sum);
}

std::optional<stored_record> decode_record(const std::byte* at, std::uint32_t block_tokens) {
  record_header h;
  std::memcpy(&h, at, sizeof h);
  if (h.mark != record_mark || h.num_tokens != block_tokens) return std::nullopt;
  std::uint64_t sum = 0;
  std::memcpy(&sum, at + header_sum_at(h.num_tokens), sizeof sum);
  if (sum != header_checksum({at, header_sum_at(h.num_tokens)})) return std::nullopt;
  stored_record d{{{h.hash_high, h.hash_low},
                   {h.parent_high, h.parent_low},
                   std::vector<token_id>(h.num_tokens),
                   h.index,
                   h.prompt_tokens},
                  h.sequence,
                  h.payload_sum};
  std::memcpy(d.key.tokens.data(), at + sizeof h, h.num_tokens * sizeof(token_id));
  return d;
}

}  // namespace troupe::engine
