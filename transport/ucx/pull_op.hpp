// One pull under way on the progress thread. Private to transport/ucx.
#pragma once

#include <optional>
#include <vector>

#include "transport/checksum.hpp"
#include "transport/fabric.hpp"

namespace troupe::transport::ucx {

class peer;
struct pull_op;

// Who moves the bytes into the destination.
enum class mover : std::uint8_t {
  none,      // no way leads there: a process's own GPU memory into its host memory
  copy,      // this thread, from mapped memory
  messages,  // this thread, from messages that the owner sends when asked
  device,    // the GPU, from memory that it can read itself
  get,       // the network card, or UCX
};

// One piece that was asked for or is being read; what callbacks and messages find their way back by.
struct ticket {
  pull_op* op = nullptr;
  std::uint32_t piece = 0;
  std::uint64_t id = 0;              // messages: names it on the wire
  std::uint64_t arrived = 0;         // messages: bytes so far
  std::optional<summing_copy> copy;  // messages
  // Into device memory by way of the host: the pinned slot that the piece is in. Then the device copies it on.
  std::byte* slot = nullptr;
  bool landing = false;  // the device is copying from the slot
};

// It may be destroyed only when `outstanding` is 0: then nothing of UCX or the device points here or writes into its
// pieces.
struct pull_op {
  pull_request request;
  region local;
  peer* from = nullptr;
  path via = path::none;
  mover by = mover::none;
  std::size_t next_piece = 0;        // the first not yet begun
  std::size_t asked = 0;             // messages, staged: pieces that have not arrived whole
  std::size_t outstanding = 0;       // gets that UCX, and batches that the device has not ended
  std::size_t unsummed = 0;          // get: pieces that landed and wait for their checksum
  std::optional<error> failure;      // set: begin nothing more
  std::optional<summing_copy> copy;  // copy: the piece being copied
  std::vector<ticket> tickets;       // messages, get, staged: one a piece
  std::vector<std::uint64_t> checksums;
  std::vector<fence_image> fences;  // of device memory

  const piece& piece_of(const ticket& t) const { return request.pieces[t.piece]; }
  std::byte* local_data(const piece& p) const { return local.data + p.local_offset; }
  // Copied by this thread on their way into device memory.
  bool is_staged() const {
    return local.kind == memory_kind::cuda && (by == mover::copy || by == mover::messages);
  }
  // How many of a piece's bytes its checksum covers: all but the fence.
  std::size_t summed_bytes(const piece& p) const;
  bool all_begun() const { return next_piece == request.pieces.size(); }
  bool quiescent() const { return outstanding == 0; }
  bool complete() const {
    return all_begun() && asked == 0 && outstanding == 0 && unsummed == 0 && !copy;
  }
};

}  // namespace troupe::transport::ucx
