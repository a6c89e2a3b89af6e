// One node's end of the simulated network: the fabric that its actors see. Private to
// transport/sim. One thread.
//
// A pull moves its bytes half a piece at a time, each half at its own moment, so that whoever
// writes into a block that is being read, or frees one that is being written, is seen. A forced
// close takes a moment during which more bytes may land, as on a real wire: only pull_done ends
// that.
#pragma once

#include <memory>

#include "transport/ledger.hpp"
#include "transport/sim/network.hpp"

namespace troupe::transport::sim {

class node final : public fabric {
 public:
  node(network& on, incarnation self, event_sink sink);
  ~node() override { node::close(); }

  incarnation self() const override { return self_; }
  result<region> allocate(std::size_t bytes) override;
  result<region> register_memory(void* data, std::size_t bytes, memory_kind kind) override;
  result<std::string> local_address() override;
  result<void> connect(incarnation peer, std::string_view address) override;
  void disconnect(incarnation peer) override;
  result<void> pull(pull_request request) override;
  void cancel(op_id op) override;
  fabric_stats stats() const override { return book_.stats(net_.now()); }
  void close() override;

  // From the network.
  void die();
  void peer_died(incarnation peer);
  void link_restored(incarnation owner);
  std::vector<std::span<const std::byte>> targets() const;
  std::optional<region> region_at(region_id id) const { return book_.find_region(id); }

 private:
  struct op {
    std::uint64_t serial = 0;  // an op id may come again, this does not
    pull_request request;
    std::chrono::nanoseconds step{};  // between two halves
    std::size_t next_half = 0;
    bool begun = false, parked = false, dropped = false, ending = false;
    std::optional<error> failure;
  };
  enum class peer_state { connecting, up, closing };

  void emit(event e);
  void answer_connect(incarnation peer);
  void give_up_connect(incarnation peer);
  void take_down(incarnation peer, error reason, bool by_us);
  void finish_down(incarnation peer, const error& reason, bool by_us);
  void begin(op& o);
  void step(std::uint64_t serial);
  void copy_half(op& o, std::size_t half, bool is_late);
  void expire(std::uint64_t serial);
  void finish_later(op& o);
  void finish(std::uint64_t serial);
  void write_late(const op& o);
  op* find(std::uint64_t serial);

  network& net_;
  const incarnation self_;
  const event_sink sink_;
  ledger book_;
  bool open_ = true;
  std::vector<std::unique_ptr<std::byte, void (*)(void*)>> memory_;
  std::vector<published_region> published_;
  std::map<incarnation, peer_state> peers_;
  std::uint64_t next_serial_ = 0;
  std::map<std::uint64_t, op> ops_;  // by serial
};

}  // namespace troupe::transport::sim
