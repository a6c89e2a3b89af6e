// What the progress thread does: peers, pulls, deadlines. A plain single-threaded object whose time
// is a parameter; the thread around it is in fabric.cpp. Private to transport/ucx.
#pragma once

#include <deque>
#include <set>
#include <unordered_map>

#include "base/secrets.hpp"
#include "transport/ledger.hpp"
#include "transport/staging.hpp"
#include "transport/ucx/inbox.hpp"
#include "transport/ucx/peer.hpp"
#include "transport/ucx/server.hpp"

namespace troupe::transport::ucx {

class progress {
 public:
  // `key`: what hellos to this node must bring.
  progress(const ucx_options& options, const hello_key& key, worker& on, ledger& book,
           const event_sink& sink, std::shared_ptr<inbox> ends);

  // Before anything else: takes the worker's messages.
  result<void> listen();

  void connect(node_address address, time_point now);
  void disconnect(incarnation id);
  void start(pull_request request, time_point now);
  void cancel(op_id op, time_point now);

  // One round: network, one slice of copying, deadlines, completions. True if there is more to do
  // at once.
  bool round(time_point now);
  // When round() must run again even if nothing happens.
  std::optional<time_point> next_deadline() const;

  void close_all();
  bool idle() const { return peers_.empty() && pulls_.empty() && server_.idle(); }

 private:
  void bring_up(peer& p);
  bool report_path(const peer& p, path via) const;  // true: slower than it could be
  void take_down(peer& p, error reason, bool by_us);
  void watch_peers(time_point now);
  void place(pull_op& op);  // into the queue of the way it will take
  void begin_pieces(peer& p);
  void hear_welcome(const welcome_header& welcome);
  void memory_opened(incarnation id, std::uint64_t connection, std::uint32_t region,
                     result<const std::byte*> opened);
  void hear_data(const data_header& header, const std::byte* bytes, std::size_t size);
  void end_reads(const pull_op& op);
  void forget_tickets(pull_op& op);
  void on_get_ended(ticket& t, ucs_status_t status);
  void sum_landed();
  bool copy_slice();
  bool map_ahead(time_point now);  // while there is nothing else to do
  bool begin_copy(pull_op& op);    // of the next piece; false: no slot for it yet
  // progress_device.cpp: what our device copies.
  void begin_direct();
  bool begin_batch(pull_op& op);  // false: the device takes no more now
  void batch_ended(pull_op& op, std::size_t first, device_done&& done);
  std::byte* landing(pull_op& op,
                     ticket& t);  // where this thread copies the piece; null: no slot yet
  void arrived(ticket& t);        // the piece is whole in its slot
  void begin_landings();
  void landed(ticket& t, device_done&& done);
  void give_back(ticket& t);
  void expire(time_point now);
  void settle(pull_op& op, time_point now);  // delivers its end if it has come
  void settle_all(time_point now);

  const ucx_options& options_;
  worker& worker_;
  ledger& book_;
  const event_sink& sink_;
  const std::shared_ptr<inbox> ends_;
  staging landing_;  // slots for what comes in
  server server_;
  const std::unique_ptr<memory_opener> opener_;  // null without a device; outlives peers
  std::map<incarnation, std::unique_ptr<peer>> peers_;
  std::set<incarnation> closed_by_us_;
  std::unordered_map<std::uint64_t, std::unique_ptr<pull_op>> pulls_;
  std::set<std::pair<time_point, std::uint64_t>> deadlines_;
  std::deque<pull_op*> copies_;   // mapped path: round robin, a slice each
  std::deque<pull_op*> starved_;  // of those, the ones that wait for a slot
  std::deque<pull_op*> direct_;   // device path: round robin, a batch each
  std::deque<ticket*> arrived_;   // staged: in their slots, waiting for the device
  std::unordered_map<std::uint64_t, ticket*>
      wanted_;                          // pieces asked for, by their number on the wire
  std::vector<ticket*> landed_;         // pieces that were got and whose checksum is wanted
  std::vector<std::uint64_t> changed_;  // pulls that may have ended
  random_ids numbers_;                  // of connections and tickets
  bool more_ = false, blocked_ = false;
  time_point now_{};       // of this round
  time_point map_next_{};  // peers' memory is looked at for new pages
};

}  // namespace troupe::transport::ucx
