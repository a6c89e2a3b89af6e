// One request inside the engine: its tokens, how far their KV is computed, and where. Owner:
// engine; changed by scheduler and kv_cache on its behalf.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/hash.hpp"
#include "base/ids.hpp"
#include "engine/drafts.hpp"
#include "engine/generation.hpp"
#include "engine/structured/compiled_format.hpp"
#include "engine/token_counts.hpp"

namespace troupe::engine {

enum class sequence_state : std::uint8_t { waiting, waiting_for_remote_kv, running, held };

// The part of a sequence whose prompt is computed by a peer. Blocks [0, num_blocks) of the table
// cover the context.
struct remote_prefill {
  std::uint32_t first_block = 0;  // blocks before it came from the local prefix cache
  std::uint32_t num_blocks = 0;
  std::vector<bool> arrived;  // [num_blocks], verified; true before first_block
  std::uint32_t num_arrived = 0;
  std::chrono::nanoseconds pulling{};  // the time of its pulls, summed
};

// Guesses that another begins differently: rows of the same pass with blocks of their own for what lies behind the
// sequence's sealed blocks.
struct draft_branch {
  std::vector<token_id> verify;  // the sequence's last token, then the guesses
  std::vector<block_id> table;
  std::uint32_t num_shared = 0;  // blocks of the table that are the sequence's
  guess_source source = guess_source::text;
};

struct sequence {
  // -- what was asked
  // ------------------------------------------------------------------------------------------------
  generation_request request;  // prompt and output are moved to `tokens`
  std::uint64_t age = 0;       // order of arrival; the lower is the older

  // -- tokens
  // --------------------------------------------------------------------------------------------------------
  std::vector<token_id> tokens;  // prompt, then output
  std::uint32_t num_prompt = 0;
  std::uint32_t num_context =
      0;  // prompt and the output of earlier attempts: what was there at the start
  std::optional<token_counts> counts;
  std::vector<token_output> prompt_logprobs;  // [num_prompt] while they are wanted
  bool wants_prompt_logprobs = false;         // and has not delivered them

  // -- KV
  // ------------------------------------------------------------------------------------------------------------
  std::uint32_t num_computed = 0;  // tokens whose KV is in the table's blocks
  std::vector<block_id> table;
  std::uint32_t num_sealed = 0;     // leading blocks of the table that are sealed
  std::uint32_t num_announced = 0;  // leading blocks of the table that the reader was told of
  std::vector<hash128_t> hashes;    // of leading full blocks, extended when needed
  std::optional<remote_prefill> remote;

  // -- state
  // ---------------------------------------------------------------------------------------------------------
  sequence_state state = sequence_state::waiting;
  std::uint32_t rows = 0;        // of the step being planned
  std::vector<token_id> verify;  // of this step, with drafts: the last token, then they; else empty
  guess_source verifies = guess_source::text;           // where they come from
  std::vector<draft_branch> branches;                   // of this step
  std::unique_ptr<drafts> guesses;                      // where speculation is on
  std::shared_ptr<structured::compiled_format> format;  // where one is asked for
  structured::automaton::state format_state = structured::automaton::dead;  // after the output
  structured::work_budget format_work;
  bool guesses_unmasked = false;  // it is not known what may follow this step's guesses
  time_point lease_end = time_point::max();
  bool was_admitted = false;  // at least once
  bool was_remote = false;    // a peer may still bring its first token
  bool was_planned = false;   // queue_us is known
  time_point queued_since{};
  generation_usage usage;

  std::uint32_t num_tokens() const { return static_cast<std::uint32_t>(tokens.size()); }
  std::uint32_t num_output() const { return num_tokens() - num_prompt; }
  std::uint32_t remaining() const {
    return num_tokens() - num_computed;
  }  // rows to compute before the next token
  std::span<const token_id> block_tokens(std::uint32_t block, std::uint32_t size) const {
    return std::span(tokens).subspan(std::size_t{block} * size, size);
  }
};

}  // namespace troupe::engine
