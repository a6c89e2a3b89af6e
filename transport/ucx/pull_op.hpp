// One pull under way on the progress thread. Private to transport/ucx.
#pragma once

#include <optional>
#include <vector>

#include "transport/checksum.hpp"
#include "transport/fabric.hpp"

namespace troupe::transport::ucx {

class peer;
struct pull_op;

// What a UCX callback needs to find its way back; lives in the pull_op until the callback ran.
struct get_ticket {
  pull_op* op = nullptr;
  std::uint32_t piece = 0;
};

// It may be destroyed only when `outstanding` is 0: then nothing of UCX points here or writes into
// its pieces.
struct pull_op {
  pull_request request;
  region local;
  peer* from = nullptr;
  path via = path::none;             // none: no byte has moved yet
  std::size_t next_piece = 0;        // the first not yet begun
  std::size_t outstanding = 0;       // gets that UCX has not ended
  std::size_t unsummed = 0;          // pieces that landed and wait for their checksum
  std::optional<error> failure;      // set: begin nothing more
  std::optional<summing_copy> copy;  // mapped path: the piece being copied
  std::vector<get_ticket> tickets;   // get path: one a piece
  std::vector<std::uint64_t> checksums;

  std::byte* local_data(const piece& p) const { return local.data + p.local_offset; }
  // How many of a piece's bytes its checksum covers: all but the fence.
  std::size_t summed_bytes(const piece& p) const;
  bool all_begun() const { return next_piece == request.pieces.size(); }
  bool quiescent() const { return outstanding == 0; }
  bool complete() const { return all_begun() && quiescent() && unsummed == 0 && !copy; }
};

}  // namespace troupe::transport::ucx
