import { escapeXml } from '../../bytes/xml.ts'

/** The machine that an appliance asks for, with one disk. */
export interface Machine {
  readonly name: string
  readonly processors: number
  /** MiB */
  readonly memory: number
  readonly firmware: 'bios' | 'efi'
  /** how the disk is attached */
  readonly controller: 'lsilogic' | 'pvscsi'
  readonly disk: {
    /** name of its member */
    readonly href: string
    /** bytes of its member */
    readonly fileSize: number
    /** bytes that the guest sees */
    readonly capacity: number
  }
}

const SCHEMA = 'http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2'
const NAMESPACES = [
  'xmlns="http://schemas.dmtf.org/ovf/envelope/1"',
  'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"',
  `xmlns:rasd="${SCHEMA}/CIM_ResourceAllocationSettingData"`,
  `xmlns:vssd="${SCHEMA}/CIM_VirtualSystemSettingData"`,
  'xmlns:vmw="http://www.vmware.com/schema/ovf"',
]
const FORMAT = 'http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized'
/** Of ESXi 6.5, the first whose importers take SHA-256 manifests. */
const HARDWARE = 'vmx-13'
/** "Other 64-bit", of CIM_OperatingSystem.OsType. */
const ANY_SYSTEM = 102

/** CIM_ResourceAllocationSettingData.ResourceType. */
const RESOURCE = { processor: 3, memory: 4, scsiController: 6, network: 10, disk: 17 } as const
const CONTROLLERS = { lsilogic: 'lsilogic', pvscsi: 'VirtualSCSI' } as const

/**
 * A descriptor of envelope version 1, which every importer knows. [DSP0243 1.1.1; 2.1.1 keeps it valid]
 *
 * Elements of one item stand in the order of the alphabet, as the schema has them.
 */
export function formatOvf({ name, processors, memory, firmware, controller, disk }: Machine): string {
  const machine = escapeXml(name)
  return `<?xml version="1.0" encoding="UTF-8"?>
<Envelope ${NAMESPACES.join(' ')}>
  <References>
    <File ovf:href="${escapeXml(disk.href)}" ovf:id="file1" ovf:size="${disk.fileSize}"/>
  </References>
  <DiskSection>
    <Info>Virtual disk information</Info>
    <Disk ovf:capacity="${disk.capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="${FORMAT}"/>
  </DiskSection>
  <NetworkSection>
    <Info>The list of logical networks</Info>
    <Network ovf:name="VM Network">
      <Description>The network of the machine</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="${machine}">
    <Info>A virtual machine</Info>
    <Name>${machine}</Name>
    <OperatingSystemSection ovf:id="${ANY_SYSTEM}" vmw:osType="otherGuest64">
      <Info>The kind of installed guest operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware requirements</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>${machine}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>${HARDWARE}</vssd:VirtualSystemType>
      </System>
${[
  item({
    AllocationUnits: 'hertz * 10^6',
    Description: 'Number of virtual CPUs',
    ElementName: `${processors} virtual CPU(s)`,
    InstanceID: 1,
    ResourceType: RESOURCE.processor,
    VirtualQuantity: processors,
  }),
  item({
    AllocationUnits: 'byte * 2^20',
    Description: 'Memory size',
    ElementName: `${memory} MB of memory`,
    InstanceID: 2,
    ResourceType: RESOURCE.memory,
    VirtualQuantity: memory,
  }),
  item({
    Address: 0,
    Description: 'SCSI controller',
    ElementName: 'SCSI controller 0',
    InstanceID: 3,
    ResourceSubType: CONTROLLERS[controller],
    ResourceType: RESOURCE.scsiController,
  }),
  item({
    AddressOnParent: 0,
    ElementName: 'Hard disk 1',
    HostResource: 'ovf:/disk/vmdisk1',
    InstanceID: 4,
    Parent: 3,
    ResourceType: RESOURCE.disk,
  }),
  item({
    AddressOnParent: 7,
    AutomaticAllocation: true,
    Connection: 'VM Network',
    Description: 'Network adapter on "VM Network"',
    ElementName: 'Network adapter 1',
    InstanceID: 5,
    ResourceSubType: 'VmxNet3',
    ResourceType: RESOURCE.network,
  }),
].join('\n')}
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="${firmware}"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`
}

function item(properties: Readonly<Record<string, string | number | boolean>>): string {
  const lines = Object.entries(properties).map(
    ([name, value]) => `        <rasd:${name}>${escapeXml(String(value))}</rasd:${name}>\n`,
  )
  return `      <Item>\n${lines.join('')}      </Item>`
}
