// Somebody at the other end of a fabric who speaks the transport's messages as a test wants: a reader or an owner that
// lies, that has stopped (nobody calls it, so it neither sends nor takes anything), or that only listens.
#pragma once

#include <gtest/gtest.h>

#include <set>

#include "tests/transport/harness.hpp"
#include "transport/address.hpp"
#include "transport/ucx/endpoint.hpp"

namespace troupe::transport::testing {

class stranger {
 public:
  explicit stranger(incarnation self = incarnation{0xBAD}) : self_(self) {
    ucx_options options;
    options.self = self;
    worker_ = std::move(ucx::worker::make(options).value());
    listen<&stranger::hear_hello>(ucx::message::hello);
    listen<&stranger::hear_welcome>(ucx::message::welcome);
    listen<&stranger::hear_read>(ucx::message::read);
    listen<&stranger::hear_data>(ucx::message::data);
    listen<&stranger::hear_end>(ucx::message::end);
  }
  ~stranger() {
    to_.close();
    run_until([&] { return to_.gone(); });
  }

  // Towards an owner.
  void call(const node_address& owner) {
    ASSERT_TRUE(to_.open(*worker_, owner.worker));
    key_ = key_of(owner, "");
  }
  template <class Header>
  void send(ucx::message id, const Header& header, std::string_view payload = {}) {
    // Without taking anything, if that is possible: one who sends may have stopped reading.
    if (!to_.try_send(id, header, payload))
      run_until([&] { return to_.try_send(id, header, payload); });
  }
  void send_hello(const hello_key& key, std::string_view payload) {
    send(ucx::message::hello, ucx::hello_header{key, raw(self_), 77}, payload);
  }
  // Becomes a reader of the owner.
  void be_welcomed() {
    send_hello(key_, worker_->address());
    ASSERT_TRUE(run_until([&] { return welcomed.has_value(); }));
  }
  void read(std::uint64_t ticket, std::uint64_t offset, std::uint64_t bytes,
            std::chrono::milliseconds within = 10min) {
    send(ucx::message::read, ucx::read_header{welcomed->client, ticket, offset, bytes, 0,
                                              static_cast<std::uint32_t>(within.count())});
  }

  // As an owner of one region of host memory on another host, whose readers are welcomed while this runs.
  std::string address(std::uint64_t bytes) const {
    node_address shown{self_, {}, "another host", worker_->address(), {{}}};
    shown.regions[0].bytes = bytes;
    return encode(shown);
  }
  const std::string& worker_address() const { return worker_->address(); }

  bool run_until(const std::function<bool()>& is_met) {
    for (auto end = clock::now() + 60s; clock::now() < end;) {
      worker_->progress(1);
      to_.flush();
      if (is_met()) return true;
      std::this_thread::yield();
    }
    ADD_FAILURE() << "nothing happened";
    return false;
  }

  std::optional<ucx::welcome_header> welcomed;
  std::uint64_t bytes_heard = 0;
  std::set<std::uint64_t> tickets_heard;  // of data
  std::vector<ucx::read_header> reads;    // of those who read from it
  std::set<std::uint64_t> reads_ended;    // tickets

 private:
  void hear_hello(std::string_view header, std::string_view payload) {
    auto hello = ucx::parse<ucx::hello_header>(header.data(), header.size());
    if (!hello || to_.handle() != nullptr) return;
    ASSERT_TRUE(to_.open(*worker_, payload));
    to_.post(ucx::message::welcome, ucx::welcome_header{hello->connection, 1});
  }
  void hear_welcome(std::string_view header, std::string_view) {
    welcomed = ucx::parse<ucx::welcome_header>(header.data(), header.size());
  }
  void hear_read(std::string_view header, std::string_view) {
    reads.push_back(ucx::parse<ucx::read_header>(header.data(), header.size()).value());
  }
  void hear_data(std::string_view header, std::string_view payload) {
    tickets_heard.insert(ucx::parse<ucx::data_header>(header.data(), header.size()).value().ticket);
    bytes_heard += payload.size();
  }
  void hear_end(std::string_view header, std::string_view) {
    reads_ended.insert(ucx::parse<ucx::end_header>(header.data(), header.size()).value().ticket);
  }

  template <void (stranger::*hear)(std::string_view, std::string_view)>
  void listen(ucx::message id) {
    ucp_am_handler_param_t param{};
    param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    param.id = static_cast<unsigned>(id);
    param.flags = UCP_AM_FLAG_WHOLE_MSG;
    param.cb = [](void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                  const ucp_am_recv_param_t*) {
      (static_cast<stranger*>(self)->*hear)({static_cast<const char*>(header), header_bytes},
                                            {static_cast<const char*>(data), bytes});
      return UCS_OK;
    };
    param.arg = this;
    ASSERT_EQ(ucp_worker_set_am_recv_handler(worker_->handle(), &param), UCS_OK);
  }

  const incarnation self_;
  std::unique_ptr<ucx::worker> worker_;
  ucx::endpoint to_;
  hello_key key_{};
};

}  // namespace troupe::transport::testing
